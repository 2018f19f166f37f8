"""What waits for Kafka: the memory it takes, and what of it the garbage collector has to walk."""

import subprocess
import sys
from collections.abc import Callable

import pytest

import spanferry
from spanferry.assessments import AssessmentError, AssessmentSource
from spanferry.redaction import Redaction
from spanferry.settings import Settings
from spanferry.testing import capture
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
import contextvars, os, pathlib, re, time
import spanferry
from spanferry.asgi import TraceMiddleware
LIMIT = 16 * 1024 * 1024
spanferry.enable(
    bootstrap_servers="127.0.0.1:1", exit_timeout_s=0, mlflow=False, buffer_bytes=LIMIT, budget_ms=0
)

def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

async def app(scope, receive, send):
    pass

def ask(number):
    headers = [(name, b"%d" % number + b"h" * 20_000) for name in (b"x-request-id", b"x-session-id")]
    scope = {{"type": "http", "method": "GET", "path": f"/{{number}}" + "p" * 9_000, "headers": headers}}
    try:
        TraceMiddleware(app)(scope, None, None).send(None)
    except StopIteration:
        pass

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
    "names": 'spanferry.start_span_no_context(f"{number}" + "n" * 5_000).end()',
    "types": 'span.set_span_type(f"{number}" + "t" * 5_000)',
    "request ids": 'spanferry.update_current_trace(client_request_id=f"{number}" + "r" * 20_000)',
    "users": 'spanferry.update_current_trace(user=f"{number}" + "u" * 20_000)',
    "previews": 'spanferry.update_current_trace(request_preview=f"{number}" + "p" * 20_000)',
    "requests": "contextvars.Context().run(ask, number)",
    "feedback": (
        'spanferry.log_feedback(trace_id=root.trace_id, name=f"{number}" + "n" * 5_000, '
        'metadata={"m": "m" * 5_000 + str(number)}, error="e" * 5_000 + str(number))'
    ),
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


LONG = "x" * 1_000_000


def name_and_type() -> None:
    with spanferry.start_span(LONG, span_type=LONG):
        pass


def odd_name_and_type() -> None:
    class Odd:
        def __str__(self) -> str:
            return LONG

    with spanferry.start_span(Odd(), span_type=None) as root:  # type: ignore[arg-type]
        root.set_span_type(Odd())  # type: ignore[arg-type]


def late_name_and_type() -> None:
    with spanferry.start_span("root"):
        late = spanferry.start_span_no_context(LONG, span_type=LONG)
    late.end()


def request_id_and_session() -> None:
    with spanferry.start_span("root"):
        spanferry.update_current_trace(client_request_id=LONG, session_id=LONG)


def previews() -> None:
    with spanferry.start_span("root"):
        spanferry.update_current_trace(request_preview=LONG, response_preview=LONG)


def tags_and_metadata() -> None:
    with spanferry.start_span("root"):
        spanferry.update_current_trace(tags={"t": LONG}, metadata={"m": LONG})


def tags_of_a_part() -> None:
    """Handed over with the first part, and again at the end."""
    with spanferry.start_span("root"):
        spanferry.update_current_trace(tags={"t": LONG})
        with spanferry.start_span("child") as child:
            child.set_outputs("y" * 300_000)


def the_contexts_tags() -> None:
    with (
        spanferry.context(tags={LONG: "key"}, metadata={"m": LONG}),
        spanferry.start_span("root"),
    ):
        pass


def the_models_params() -> None:
    with (
        spanferry.set_active_model(name=LONG, params={"p": LONG}),
        spanferry.start_span("root"),
    ):
        pass


def experiment_and_run() -> None:
    with spanferry.start_span("root", trace_destination=AnExperiment(), run_id=LONG):
        pass


class AnExperiment:
    experiment_id = LONG


def status_and_event() -> None:
    with spanferry.start_span("root") as root:
        root.set_status(spanferry.SpanStatus("ERROR", LONG))
        root.add_event(spanferry.SpanEvent(LONG))


def feedback() -> None:
    spanferry.log_feedback(client_request_id=LONG, name=LONG, value=1)


def feedback_with_an_error() -> None:
    spanferry.log_feedback(
        trace_id="tr-" + "1" * 32,
        error=AssessmentError("code", LONG, LONG),
    )


def an_expectation() -> None:
    spanferry.log_expectation(
        trace_id="tr-" + "1" * 32,
        name="n",
        value=1,
        metadata={LONG: "key"},
        source=AssessmentSource("HUMAN", LONG),
    )


TWO_LONG_TEXTS = [
    name_and_type,
    odd_name_and_type,
    late_name_and_type,
    request_id_and_session,
    previews,
    tags_and_metadata,
    tags_of_a_part,
    the_contexts_tags,
    the_models_params,
    experiment_and_run,
    status_and_event,
    feedback,
    feedback_with_an_error,
    an_expectation,
]


@pytest.mark.parametrize("redact", [None, Redaction(presets=["emails"])])
@pytest.mark.parametrize("record", TWO_LONG_TEXTS)
def test_every_text_of_the_apps_counts(
    record: Callable[[], None], redact: Redaction | None
) -> None:
    settings = Settings(bootstrap_servers="none:1", mlflow=False, redact=redact)
    with capture(settings) as captured:
        record()
    counted = sum(parcel.size for parcel in captured.parcels)
    assert 2_000_000 < counted < 6_000_000


def test_a_name_that_was_replaced_is_not_kept() -> None:
    """An HTTP request is called after its path until its route is known."""
    with capture(Settings(bootstrap_servers="none:1", mlflow=False)):
        with spanferry.start_span("the first one starts another way"):
            pass
        with spanferry.start_span(LONG) as root:
            root.rename("short")
        assert root.trace.name == ""
        assert root.trace.facts.tags == {"mlflow.traceName": "short"}
