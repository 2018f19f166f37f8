"""What waits for Kafka: the memory it takes, and what of it the garbage collector has to walk."""

import subprocess
import sys

import pytest

MEMORY = """
import time, tracemalloc
import spanferry
{imports}
spanferry.enable(bootstrap_servers="127.0.0.1:1", experiment="e", exit_timeout_s=0)

def trace(number):
    with {api}.start_span("root", span_type="AGENT") as root:
        root.set_inputs({{"question": f"{{number}} why " * 40, "how": [number] * 20}})
        for _ in range(4):
            with {api}.start_span("child") as child:
                child.set_inputs("x" * {size} + str(number))
                child.set_outputs({{"text": "y" * {size} + str(number)}})

tracemalloc.start()
while spanferry.stats().buffered_bytes < 300_000:  # from there on nothing keeps more than it takes
    trace(0)
first = tracemalloc.get_traced_memory()[0]
while spanferry.stats().last_error is None:  # the sender has imported what it needs, and has tried
    time.sleep(0.05)
counted, taken = spanferry.stats().buffered_bytes, tracemalloc.get_traced_memory()[0]
for number in range(200):
    trace(number)
counted = spanferry.stats().buffered_bytes - counted
print((tracemalloc.get_traced_memory()[0] - taken) / counted, first / 1e6)
"""

WALKED = """
import gc
import spanferry
{imports}
spanferry.enable(bootstrap_servers="127.0.0.1:1", experiment="e", exit_timeout_s=0)

def trace():
    with {api}.start_span("root") as root:
        root.set_inputs("why?")
        for _ in range(9):
            with {api}.start_span("child") as child:
                child.set_outputs("because")

for _ in range(50):
    trace()
gc.collect()
gc.disable()
before = gc.get_objects()
known = set(map(id, before))
for _ in range(200):
    trace()
ours = [o for o in gc.get_objects() if id(o) not in known and type(o).__module__.startswith("span")]
print(len(ours) / 200)
"""

APIS = [
    pytest.param("spanferry", "", id="spanferry"),
    pytest.param("mlflow", "import mlflow", id="mlflow"),
]


def said_by(program: str, **parts: object) -> list[float]:
    """What the program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program.format(**parts)],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return [float(one) for one in done.stdout.split()]


@pytest.mark.parametrize("size", [20, 1_000, 30_000])
@pytest.mark.parametrize(("api", "imports"), APIS)
def test_what_is_counted_is_about_what_is_taken(api: str, imports: str, size: int) -> None:
    """orjson's texts alone would take eight times as much, and 4 KB for the shortest."""
    taken_by_counted, first_mb = said_by(MEMORY, api=api, imports=imports, size=size)
    assert 0.5 < taken_by_counted < 2
    assert first_mb < 12  # what came first kept it all, and was little


@pytest.mark.parametrize(("api", "imports"), APIS)
def test_the_collector_walks_traces_that_wait_not_their_spans(api: str, imports: str) -> None:
    assert said_by(WALKED, api=api, imports=imports)[0] < 1.5
