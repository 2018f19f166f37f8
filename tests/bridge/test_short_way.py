"""The short way that most roots of MLflow's API take records what the long way does."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow.entities.trace_location import MlflowExperimentLocation

from spanferry.bridge.gate import GATE
from spanferry.process import PROCESS
from spanferry.settings import Settings
from spanferry.testing import capture


def program() -> None:
    with mlflow.start_span("root", span_type="AGENT") as root:
        root.set_inputs({"question": "why?"})
        mlflow.update_current_trace(tags={"a": "b"}, session_id="s")
        with mlflow.start_span("child", span_type="TOOL") as child:
            child.set_outputs(3)
        mlflow.start_span_no_context("by hand", parent_span=root).end()


def shape_of(captured: capture) -> list[Any]:
    """All but ids and times."""
    (trace,) = captured.traces
    ids = {span.span_id: span.name for span in trace.spans}
    return [
        trace.part,
        trace.complete,
        trace.state,
        [
            (span.name, ids.get(span.parent_id or ""), span.inputs, span.outputs, span.span_type)
            for span in trace.spans
        ],
    ]


@pytest.fixture
def learnt() -> Iterator[capture]:
    """A process in which nothing but an experiment has been set, after its first trace."""
    models, scopes = PROCESS.models, PROCESS.scopes
    PROCESS.models = PROCESS.scopes = False
    with capture(Settings(bootstrap_servers="captured.invalid:9092", experiment="e")) as captured:
        program()
        captured.clear()
        assert GATE.defaults_for_root() is not None
        yield captured
    PROCESS.models, PROCESS.scopes = PROCESS.models or models, PROCESS.scopes or scopes
    PROCESS.detours, PROCESS.plain = PROCESS.bridged or PROCESS.scopes, None


@pytest.mark.parametrize("chosen", [None, "77"])
def test_both_ways_are_one(
    learnt: capture, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with an experiment that `mlflow.set_experiment` has chosen."""
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", chosen)
    program()
    short = shape_of(learnt)
    learnt.clear()
    PROCESS.plain = None
    program()
    assert short == shape_of(learnt)
    assert short[0].experiment_id == chosen


def test_another_experiment_holds_at_once(learnt: capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen in ("1", "2", None, "1"):
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", chosen)
        program()
        (trace,) = learnt.traces
        assert trace.part.experiment_id == chosen
        learnt.clear()


@contextlib.contextmanager
def _destination() -> Iterator[None]:
    mlflow.tracing.set_destination(MlflowExperimentLocation("9"))
    try:
        yield
    finally:
        mlflow.tracing.provider._MLFLOW_TRACE_USER_DESTINATION.reset()


@contextlib.contextmanager
def _model() -> Iterator[None]:
    mlflow.set_active_model(model_id=mlflow.create_external_model(name="m").model_id)
    try:
        yield
    finally:
        mlflow.clear_active_model()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (_destination, lambda trace: trace.part.experiment_id == "9"),
        (_model, lambda trace: "mlflow.modelId" in trace.metadata),
        (mlflow.start_run, lambda trace: "mlflow.sourceRun" in trace.metadata),
        (
            lambda: mlflow.tracing.context(metadata={"k": "v"}),
            lambda trace: trace.metadata.get("k") == "v",
        ),
    ],
)
def test_what_is_set_later_holds_for_the_next_trace(
    learnt: capture,
    change: Callable[[], contextlib.AbstractContextManager[Any]],
    shown: Callable[[Any], bool],
) -> None:
    with change():
        assert GATE.defaults_for_root() is None
        program()
    (trace,) = learnt.traces
    assert shown(trace)


def test_a_variable_that_is_set_later_holds_in_new_threads(
    learnt: capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As natively: MLflow asks for it once a thread."""
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-1")
    thread = threading.Thread(target=program)
    thread.start()
    thread.join()
    (trace,) = learnt.traces
    mlflow.tracking.fluent._ACTIVE_MODEL_CONTEXT.reset()  # it lists threads that are gone too
    assert trace.metadata["mlflow.modelId"] == "m-1"


def test_what_is_not_sampled_or_disabled_is_not_recorded(learnt: capture) -> None:
    @mlflow.trace(sampling_ratio_override=0.0)
    def left_out() -> None:
        with mlflow.start_span("inside"):
            pass

    left_out()
    with mlflow.tracing.context(enabled=False):
        program()
    mlflow.tracing.disable()
    try:
        program()
    finally:
        mlflow.tracing.enable()
    assert not learnt.traces
    program()
    assert len(learnt.traces) == 1
