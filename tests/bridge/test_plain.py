"""MLflow's own spans, where something fails in between: the app goes on, and it is said once."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow.pyfunc.context import Context, set_prediction_context
from mlflow.tracing import provider

from spanferry.bridge import plain
from spanferry.bridge.traces import OPEN
from spanferry.settings import Settings
from spanferry.testing import capture
from tests.bridge.conftest import NOWHERE


@pytest.fixture
def captured() -> Iterator[capture]:
    with capture(Settings(bootstrap_servers=NOWHERE, accelerate=False)) as outlet:
        yield outlet
    OPEN.traces.clear()


@mlflow.trace
def double(x: int) -> int:
    with mlflow.start_span("inside") as span:
        span.set_inputs(x)
    return 2 * x


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of ours")


def said(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == logger]


def at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "dress", fails)


def at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_wire", fails)


def in_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    provider._get_tracer(__name__)
    [ours] = provider.provider.get()._active_span_processor._span_processors
    assert isinstance(ours, plain.BridgedProcessor)
    monkeypatch.setattr(ours, "_make_mlflows", fails)


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (at_the_start, "a span could not be started: a fault of ours"),
        (at_the_end, "a span could not be handed over: a fault of ours"),
        (in_an_evaluation, "a span could not be started: a fault of ours"),
    ],
)
def test_a_processor_that_fails_is_said_once(
    captured: capture,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[pytest.MonkeyPatch], None],
    words: str,
) -> None:
    evaluating = contextlib.nullcontext()
    if breaks is in_an_evaluation:
        evaluating = set_prediction_context(Context(request_id="r", is_evaluate=True))
    with pytest.MonkeyPatch.context() as monkeypatch, evaluating:
        breaks(monkeypatch)
        assert [double(x) for x in range(3)] == [0, 2, 4]
    assert [line for line in said(caplog, "spanferry") if line.startswith("a span")] == [words]
    captured.clear()
    assert double(3) == 6
    [trace] = captured.traces
    assert (trace.complete, len(trace.spans)) == (True, 2)


def raises(span: Any) -> None:
    raise ValueError("the user's")


def answers(span: Any) -> str:
    return span.name


@pytest.mark.parametrize(
    ("processors", "words"),
    [
        ([raises], "Span processor raises failed: the user's"),
        ([answers], "Span processors ['answers'] returned a non-null value"),
        ([raises, answers], "Span processors ['answers'] returned a non-null value"),
    ],
)
def test_a_processor_of_the_users_that_fails_is_mlflows_to_say(
    captured: capture, caplog: pytest.LogCaptureFixture, processors: list[Any], words: str
) -> None:
    """For every span: here MLflow's own code calls it, and spanferry adds nothing."""
    logger = logging.getLogger("mlflow")
    logger.addHandler(caplog.handler)
    try:
        with mlflow.tracing.configure(span_processors=processors):
            assert double(1) == 2
    finally:
        logger.removeHandler(caplog.handler)
    [trace] = captured.traces
    assert (trace.complete, len(trace.spans), trace.state) == (True, 2, "OK")
    mlflows = said(caplog, "mlflow.tracing.utils.processor")
    assert len([line for line in mlflows if line.startswith(words)]) == 2
    assert said(caplog, "spanferry") == []


@pytest.mark.parametrize("experiment_id", ["7", "no JSON", '"8"'])
def test_an_experiment_that_another_tracer_names(captured: capture, experiment_id: str) -> None:
    """As a plain attribute, which need not be the JSON text that MLflow writes."""
    tracer = provider.get_bridged_tracer_provider().get_tracer("another")
    tracer.start_span("root", attributes={"mlflow.experimentId": experiment_id}).end()
    [trace] = captured.traces
    assert trace.part.experiment_id == experiment_id.strip('"')
