"""The budget guard with MLflow's API: a slow encoder is met, said on the trace, and forgotten."""

import time
from collections.abc import Callable, Iterator

import mlflow
import pytest

from spanferry import values
from spanferry.budget import Guard
from spanferry.finishing import SHORTENED, SHORTENINGS, shorten
from spanferry.process import PROCESS
from spanferry.testing import CapturedTrace, capture

PARTS = 5


class Slow:
    """Half a millisecond for each: more than a whole trace may take."""

    slow = True

    def __str__(self) -> str:
        end = time.perf_counter() + 0.0005
        while self.slow and time.perf_counter() < end:
            pass
        return "said"


@mlflow.trace(span_type="TOOL")
def tool(question: str) -> list[Slow]:
    return [Slow() for _ in range(PARTS)]


def by_decorator() -> None:
    with mlflow.start_span("request", span_type="AGENT") as root:
        root.set_inputs({"question": "q" * 100})
        tool("why")
        root.set_outputs({"answer": "a" * 100})


def by_block() -> None:
    with mlflow.start_span("request", span_type="AGENT") as root:
        root.set_inputs({"question": "q" * 100})
        with mlflow.start_span("tool", span_type="TOOL") as span:
            span.set_inputs({"question": "why"})
            span.set_outputs([Slow() for _ in range(PARTS)])
        root.set_outputs({"answer": "a" * 100})


@pytest.fixture(autouse=True)
def slow() -> Iterator[None]:
    Slow.slow = True
    yield
    PROCESS.watch = None
    shorten(0)


def follow(
    guard: Guard,
    request_once: Callable[[], None],
    now_s: float,
    seconds: float,
    *,
    until: Callable[[], bool],
) -> float:
    """What `budget.follow` does, in time of its own: a request, a look, ten times a second. When.

    A machine that is busy with something else may well have it shorten, or wait, in between.
    """
    for tenth in range(int(seconds * 10)):
        if until():
            return now_s
        if guard.is_due(10_000 * tenth, now_s):
            PROCESS.watch, PROCESS.plain = guard.account(), None
        request_once()
        now_s += 0.1
        guard.look(now_s)
        shorten(guard.level)
    pytest.fail(f"at level {guard.level} after {seconds} s")


def structure(trace: CapturedTrace) -> list[tuple[object, ...]]:
    ids = {span.span_id: span.name for span in trace.spans}
    return [
        (one.name, one.span_type, one.status, ids.get(one.parent_id or b"")) for one in trace.spans
    ]


@pytest.mark.parametrize("request_once", [by_decorator, by_block])
def test_a_slow_encoder_is_shortened_said_and_forgotten(
    light: capture, request_once: Callable[[], None]
) -> None:
    guard, now_s = Guard(1.0), 0.0
    least_level = len(SHORTENINGS)
    now_s = follow(guard, request_once, now_s, 100, until=lambda: guard.level == least_level)
    assert guard.dearest.slowest == "tool"
    request_once()
    least = light.traces[-1]
    Slow.slow = False
    follow(guard, request_once, now_s, 300, until=lambda: guard.level == 0)
    request_once()

    whole, recovered = light.traces[0], light.traces[-1]
    assert whole.span("tool").outputs == recovered.span("tool").outputs == ["said"] * PARTS
    assert SHORTENED not in whole.metadata
    assert SHORTENED not in recovered.metadata
    assert least.metadata[SHORTENED] == "budget"
    assert values.SHORTENED in str(least.span("tool").outputs)
    assert structure(least) == structure(whole) == structure(recovered)
    assert least.root.inputs == whole.root.inputs == {"question": "q" * 100}
    assert least.span("tool").inputs == {"question": "why"}
    assert all(one.complete for one in light.traces)


def test_a_watched_trace_of_mlflows_api_is_recorded_as_any_other(light: capture) -> None:
    guard = Guard(1.0)
    Slow.slow = False
    by_decorator()
    PROCESS.watch, PROCESS.plain = guard.account(), None
    by_decorator()
    guard.look(0.0)
    one, watched = light.traces
    assert guard.overhead.watched == 1
    assert guard.overhead.p99_ms is not None
    assert structure(one) == structure(watched)
    assert [span.encoded_attributes() for span in one.spans] == [
        span.encoded_attributes() for span in watched.spans
    ]
