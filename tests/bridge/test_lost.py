"""Through MLflow's API, on light spans and on MLflow's own: no trace is lost that nobody counts, and what
a value raises does not reach the app."""

import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest

from spanferry import client as clients
from spanferry import outlet as outlets
from spanferry import spans
from spanferry.bridge import plain
from spanferry.bridge.traces import OPEN
from spanferry.redaction import Redaction
from spanferry.settings import Settings
from spanferry.testing import capture
from spanferry.trace_state import INCOMPLETE
from tests.bridge.conftest import NOWHERE
from tests.producer.hostile import PanicException, Panics

NOTE = "<spanferry: cannot record Panics>"


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of ours")


@pytest.fixture
def broken(accelerate: bool) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def break_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spans, "EndedSpan", fails)
    patch.setattr(plain, "_wire", fails)


def test_a_trace_that_cannot_be_handed_over_is_counted(
    captured: capture, broken: pytest.MonkeyPatch
) -> None:
    client = clients.Client(Settings(bootstrap_servers="127.0.0.1:1"))
    client._buffer.on_put = None
    before = outlets.install(client)
    try:
        with mlflow.start_span("root") as root:
            with mlflow.start_span("child"):
                pass
            break_the_end(broken)
        assert OPEN.get(root.trace_id) is None
        broken.undo()
        with mlflow.start_span("fine"):
            pass
    finally:
        outlets.install(before)
    stats = client.stats()
    assert (stats.traces, stats.traces_dropped, stats.traces_buffered) == (2, 1, 1)
    assert stats.traces_dropped_by_reason["broken"] == 1


def test_a_span_that_is_lost_leaves_its_trace_incomplete(
    captured: capture, broken: pytest.MonkeyPatch
) -> None:
    with mlflow.start_span("root"):
        with mlflow.start_span("child"):
            break_the_end(broken)
        broken.undo()
    [trace] = captured.traces
    assert [span.name for span in trace.spans] == ["root"]
    assert trace.metadata[INCOMPLETE] == "dropped"


def redacting(accelerate: bool, function: Any) -> capture:
    redact = Redaction(function=function)
    return capture(Settings(bootstrap_servers=NOWHERE, accelerate=accelerate, redact=redact))


def test_who_updates_a_trace_while_it_ends_loses_nothing(accelerate: bool) -> None:
    inside: list[contextvars.Context] = []
    updates = 0

    def function(value: Any, place: str) -> Any:
        nonlocal updates
        if inside and place.startswith("tag "):
            updates += 1
            late = {f"late{updates}": "x"}
            run = inside[0].copy().run
            thread = threading.Thread(
                target=run, args=(mlflow.update_current_trace,), kwargs={"tags": late}
            )
            thread.start()
            thread.join()
        return value

    with redacting(accelerate, function) as captured:
        with mlflow.start_span("root"):
            mlflow.update_current_trace(tags={"a": "1", "b": "2"})
            inside[:] = [contextvars.copy_context()]
        assert updates > 1
    [trace] = captured.traces
    assert trace.complete
    assert (trace.tags["a"], trace.tags["b"]) == ("1", "2")


def test_a_redaction_function_that_panics_withholds(accelerate: bool) -> None:
    def function(value: Any, place: str) -> Any:
        raise PanicException(value)

    with redacting(accelerate, function) as captured:
        with mlflow.start_span("root") as root:
            root.set_inputs("secret")
            mlflow.update_current_trace(tags={"t": "secret"})
        mlflow.log_feedback(trace_id=root.trace_id, name="f", value="secret")
    [trace] = captured.traces
    [judged] = captured.assessments
    assert trace.root.inputs == trace.tags["t"] == judged.value == "[REDACTED:withheld]"


@mlflow.trace
def answer(value: Any) -> Any:
    return value


def test_a_value_that_panics_does_not_reach_the_app(light: capture) -> None:
    """Where ours is the code that runs: MLflow's own spans make texts of values themselves."""
    with mlflow.start_span("root", attributes={"given": Panics()}) as root:
        answer(Panics())
        root.set_inputs(Panics())
        root.set_attribute("mine", [Panics()])
        mlflow.update_current_trace(tags={"t": Panics()})
    [trace] = light.traces
    assert trace.complete
    assert trace.root.inputs == trace.root.attributes["given"] == trace.tags["t"] == NOTE
    assert trace.span("answer").inputs == {"value": NOTE}


def test_a_processor_that_panics_is_said(light: capture, caplog: pytest.LogCaptureFixture) -> None:
    def processor(span: Any) -> None:
        raise PanicException("no")

    with mlflow.tracing.configure(span_processors=[processor]), mlflow.start_span("root"):
        pass
    [trace] = light.traces
    assert trace.complete
    assert "processor failed" in caplog.text
