"""What waits for Kafka: the memory it takes, and what of it the garbage collector has to walk."""

import subprocess
import sys

import pytest

from tests.services import warm

TIMEOUT_S = 100

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

RSS = """
import os, pathlib, re, time
import spanferry
LIMIT = 16 * 1024 * 1024
spanferry.enable(
    bootstrap_servers="127.0.0.1:1", exit_timeout_s=0, mlflow=False, buffer_bytes=LIMIT, budget_ms=0
)

def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

def trace(number):
    with spanferry.start_span("root") as root:
        root.set_inputs({{"question": number}})
        for part in range(4):
            with spanferry.start_span("child") as span:
                {does}

while spanferry.stats().last_error is None:
    time.sleep(0.05)
trace(0)
before, number = resident(), 0
while spanferry.stats().traces_dropped < 100:
    number += 1
    trace(number)
print((resident() - before) / LIMIT, number)
os._exit(0)
"""

FILLED_WITH = {
    "nothing": "pass",
    "text": 'span.set_outputs("y" * 500 + str(number))',
    "attributes": 'for n in range(20): span.set_attribute(f"llm.key.{n}", number + n)',
    "long keys": 'span.set_attribute("k" * 5_000 + str(number), 1)',
    "events": 'for n in range(9): span.add_event(spanferry.SpanEvent("e", attributes={"n": n}))',
    "links": 'for n in range(20): span.add_link(spanferry.Link("tr-" + "1" * 32, "2" * 16))',
    "errors": 'span.set_status(spanferry.SpanStatus("ERROR", f"{number}" + "x" * 5_000))',
    "tags": 'spanferry.update_current_trace(tags={f"{part}-{n}": str(number) for n in range(9)})',
}

APIS = [
    pytest.param("spanferry", "", id="spanferry"),
    pytest.param("mlflow", "import mlflow", id="mlflow"),
]


def said_by(program: str, **parts: object) -> list[float]:
    """What the program prints, in a process of its own; what it imports, it finds imported."""
    code = program.format(**parts)
    if parts.get("imports"):
        done = warm.run("tests.services.warm_code", code, timeout=TIMEOUT_S)
    else:
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == 0, done.stderr
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


@pytest.mark.parametrize("kind", FILLED_WITH)
def test_a_full_buffer_takes_what_it_may_whatever_fills_it(kind: str) -> None:
    """Memory as the system counts it: keys, events and the objects around small values are most of
    what attributes take. Python keeps some of what is free for later."""
    taken_by_allowed, traces = said_by(RSS, does=FILLED_WITH[kind])
    assert taken_by_allowed < 1.5
    assert traces > 100
