"""What the C library keeps of memory that is free, and what the garbage collector looks at."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from spanferry_worker.runtime.allocator import keep_little

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

if sys.argv[1] == "told":
    assert keep_little()
del_me = bytearray(24_000_000)
del del_me  # from here on glibc by itself keeps blocks up to this size
before = resident_mb()
blocks = [bytearray(b"x") * 400_000 for _ in range(400)]
pins = blocks[::20]
del blocks
print(resident_mb() - before - len(pins) * 0.4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_free_between_what_is_in_use_is_given_back():
    def kept_mb(word: str) -> float:
        command = [sys.executable, "-c", PROGRAM, word]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert kept_mb("told") < 20
    assert kept_mb("untold") > 100, "then there is nothing to be told"


COLLECTED = """
import gc, json, weakref
from spanferry_worker.runtime.allocator import collect_rarely

class Node:
    pass

loaded = [[] for _ in range(100_000)]
collect_rarely()
looked_at = len(gc.get_objects())
ring = Node()
ring.itself = ring
gone = weakref.ref(ring)
del ring
more = []
while gone() is not None and len(more) < 1_000_000:
    more.append([])
print(json.dumps([looked_at, len(more)]))
"""


def test_the_collector_looks_at_what_is_new_and_still_finds_garbage():
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED], capture_output=True, text=True, check=True
    )
    looked_at, waited = json.loads(done.stdout)
    assert looked_at < 1_000
    assert 10_000 < waited < 25_000
