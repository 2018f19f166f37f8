"""What a value raises that is no Exception, such as a panic of Rust's, never reaches the app; what stops
a thread always does."""

import asyncio
import json
import signal
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import spanferry
from spanferry import values
from spanferry.redaction import Redaction
from spanferry.settings import Settings
from spanferry.stopping import let_through
from spanferry.testing import CapturedTrace, capture
from tests.producer.hostile import (
    PanicException,
    PanickingField,
    PanickingMapping,
    PanickingModel,
    Panics,
)

NOTE = "<spanferry: cannot record Panics>"
NOWHERE = "none:1"


class UnspokenError(PanicException):
    """A panic with a text that panics."""

    def __str__(self) -> str:
        raise PanicException("str")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("make", "stored"),
    [
        (Panics, NOTE),
        (lambda: [1, Panics()], [1, NOTE]),
        (lambda: {"a": {"b": Panics()}}, {"a": {"b": NOTE}}),
        (PanickingModel, "model"),
        (lambda: [PanickingModel()], ["model"]),
        (PanickingField, {"there": 1}),
        (lambda: [PanickingField(), object], [{"there": 1}, "<class 'object'>"]),
        (lambda: {(1, 2): Panics()}, "<spanferry: cannot record dict>"),
    ],
)
def test_any_value_becomes_json(make: Callable[[], Any], stored: Any) -> None:
    assert json.loads(values.encode(make())) == stored
    assert values.text(make())


@spanferry.trace
def answer(value: Any) -> Any:
    return value


@spanferry.trace
def stream(value: Any) -> Iterator[Any]:
    yield value


@spanferry.trace(output_reducer=lambda items: items[0].missing)
def reduced(value: Any) -> Iterator[Any]:
    yield value


def everything(value: Any) -> None:
    """Wherever the app can give a value."""
    with spanferry.start_span("root", attributes={"given": value}) as span:
        answer(value)
        list(stream(value))
        list(reduced(value))
        span.set_inputs(value)
        span.set_outputs({"a": value})
        span.set_attribute("mine", value)
        span.set_attributes({"other": value})
        span.set_attributes(PanickingMapping(a=1))
        span.set_status(value)
        span.set_status(types.SimpleNamespace(status_code="ERROR", description=value))
        span.set_log_level(value)
        span.add_event(spanferry.SpanEvent("event", attributes={"a": value}))
        span.add_event(value)
        span.add_link(value)
        span.record_exception(UnspokenError())
        span.record_exception(value)
        for texts in ({"t": value, value: "t"}, PanickingMapping(a=1), value):
            spanferry.update_current_trace(tags=texts, metadata=texts)
        spanferry.update_current_trace(
            client_request_id=value,
            request_preview=value,
            state=value,
            session_id=value,
            user=value,
        )
        spanferry.update_current_trace(model_id=value)
        spanferry.log_feedback(trace_id=span.trace_id, name=value, value=value, rationale=value)
        spanferry.log_feedback(
            trace_id=span.trace_id, metadata={"m": value}, error=value, source=value
        )
        spanferry.log_feedback(trace_id=span.trace_id, metadata=PanickingMapping(a=1))
        spanferry.log_expectation(trace_id=span.trace_id, name="e", value=value)
        spanferry.log_assessment(span.trace_id, value)
    spanferry.start_span_no_context("other", inputs=value, tags={"t": value}).end(
        outputs=value, attributes={"a": value}, status=value
    )


@pytest.mark.parametrize("make", [Panics, PanickingModel, PanickingField])
def test_no_entry_lets_it_out(make: Callable[[], Any], captured: capture) -> None:
    everything(make())
    trace, _other = captured.traces
    assert trace.complete
    assert [span.name for span in trace.spans] == ["root", "answer", "stream", "reduced"]
    assert len(captured.assessments) >= 3


def test_an_apps_own_panic_passes_and_its_span_ends(captured: capture) -> None:
    with pytest.raises(UnspokenError), spanferry.start_span("root"):
        raise UnspokenError
    [trace] = captured.traces
    assert trace.complete


def redacting(function: Callable[[Any, str], Any]) -> capture:
    return capture(Settings(bootstrap_servers=NOWHERE, redact=Redaction(function=function)))


def test_a_redaction_function_that_panics_withholds(unsaid: None) -> None:
    def function(value: Any, place: str) -> Any:
        raise PanicException(value)

    with redacting(function) as captured:
        with spanferry.start_span("root") as span:
            span.set_inputs("secret")
            spanferry.update_current_trace(tags={"t": "secret"})
        spanferry.log_feedback(trace_id=span.trace_id, value="secret", rationale="secret")
    trace: CapturedTrace
    [trace] = captured.traces
    [judged] = captured.assessments
    assert trace.root.inputs == trace.tags["t"] == judged.value == "[REDACTED:withheld]"
    assert judged.event.rationale == "[REDACTED:withheld]"


def test_what_a_redaction_function_returns_may_panic(unsaid: None) -> None:
    with redacting(lambda _value, _place: Panics()) as captured, spanferry.start_span("root"):
        spanferry.update_current_trace(tags={"t": "x"})
    [trace] = captured.traces
    assert trace.tags["t"] == NOTE


class TimeLimitExceeded(BaseException):
    """What a task queue raises in whatever a task is at."""


STOPS = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, TimeLimitExceeded]


@pytest.mark.parametrize("stop", STOPS)
def test_what_stops_a_thread_goes_on(stop: type[BaseException], captured: capture) -> None:
    class Stops:
        def __str__(self) -> str:
            raise stop

        __repr__ = __str__

    value = Stops()
    for call in (
        lambda: values.encode([value]),
        lambda: values.text(value),
        lambda: answer(value),
        lambda: spanferry.start_span_no_context("s").set_attribute("a", value),
        lambda: spanferry.start_span_no_context("s", tags={"t": value}),
        lambda: spanferry.log_feedback(client_request_id="r", value=value),
    ):
        with pytest.raises(stop):
            call()


class Nameless(type):
    """A class whose name raises."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError("name")


def test_a_time_limit_that_a_signal_raises_goes_on(captured: capture) -> None:
    class Slow:
        def __str__(self) -> str:
            signal.raise_signal(signal.SIGALRM)
            return "slow"

        __repr__ = __str__

    def stop(*_: object) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(TimeLimitExceeded), spanferry.start_span("root") as span:
            span.set_inputs(Slow())
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_panic_is_known_by_its_class_s_own_name() -> None:
    let_through(PanicException())
    let_through(UnspokenError())
    let_through(ValueError())
    nameless = Nameless("Other", (BaseException,), {})
    with pytest.raises(nameless):
        let_through(nameless())
