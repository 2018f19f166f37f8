"""When the bridge is built, what it changes, and that all of it is taken back."""

import subprocess
import sys
import types

import mlflow
import pytest
from mlflow.tracing import fluent, provider
from mlflow.tracing.client import TracingClient
from mlflow.tracing.trace_manager import InMemoryTraceManager

from spanferry import bridge
from spanferry.bridge import installing
from spanferry.settings import Settings
from spanferry.testing import capture
from tests.bridge.conftest import NOWHERE

LATER = """
import sys
from spanferry import bridge, testing
with testing.capture() as captured:
    assert "mlflow" not in sys.modules
    import mlflow
    from mlflow import start_span
    with start_span("late") as span:
        pass
    assert type(span).__module__.startswith("spanferry.bridge."), type(span)
[trace] = captured.traces
print(trace.name, sys.meta_path[0].__class__.__name__)
"""

NEVER = """
import sys
from spanferry import testing
with testing.capture(testing.Settings(bootstrap_servers="x:1", mlflow=False)):
    import mlflow
    from mlflow.tracing import provider
    assert provider._get_mlflow_span_processor.__module__ == "mlflow.tracing.provider"
assert not [name for name in sys.modules if name.startswith("spanferry.bridge.inst")]
print("untouched")
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_mlflow_that_is_imported_later_is_bridged_then() -> None:
    said = run(LATER)
    assert said.startswith("late")
    assert "_Finder" not in said


def test_nothing_is_touched_where_nobody_wants_it() -> None:
    assert run(NEVER) == "untouched\n"


def state() -> list[object]:
    return [
        mlflow.start_span,
        mlflow.start_span_no_context,
        mlflow.get_current_active_span,
        mlflow.update_current_trace,
        fluent.start_span,
        fluent.capture_function_input_args,
        provider.set_span_in_context,
        provider.mlflow_runtime_context,
        provider._get_mlflow_span_processor,
        TracingClient.log_assessment,
        TracingClient.set_trace_tag,
        InMemoryTraceManager._instance,
    ]


@pytest.mark.parametrize("accelerate", [True, False])
def test_all_is_as_it_was_afterwards(accelerate: bool) -> None:
    by_name = types.ModuleType("an_apps_module")
    by_name.start = mlflow.start_span
    sys.modules["an_apps_module"] = by_name
    InMemoryTraceManager.get_instance()
    before = state()
    try:
        with capture(Settings(bootstrap_servers=NOWHERE, accelerate=accelerate)):
            assert state() != before
            assert (by_name.start is before[0]) is not accelerate
        assert state() == before
        assert by_name.start is before[0]
    finally:
        del sys.modules["an_apps_module"]


def test_twice_is_as_good_as_once(captured: capture) -> None:
    bridge.switch_on(accelerate=True)
    bridge.switch_on(accelerate=True)
    with mlflow.start_span("once"):
        pass
    assert [trace.name for trace in captured.traces] == ["once"]


def test_what_somebody_else_changed_since_stays(light: capture) -> None:
    own = fluent.start_span
    try:
        fluent.start_span = changed = lambda *_: None
        installing.uninstall()
        assert fluent.start_span is changed
    finally:
        fluent.start_span = own
        installing.uninstall()
    fluent.start_span = mlflow.start_span


@pytest.mark.parametrize(
    "again",
    [
        mlflow.tracing.reset,
        mlflow.tracing.provider.provider.reset,
        lambda: mlflow.set_tracking_uri(mlflow.get_tracking_uri()),
        lambda: mlflow.tracing.set_destination(
            mlflow.entities.trace_location.MlflowExperimentLocation("3")
        ),
        lambda: (mlflow.tracing.disable(), mlflow.tracing.enable()),
    ],
)
def test_it_outlives_whatever_makes_mlflows_tracer_anew(captured: capture, again) -> None:
    try:
        with mlflow.start_span("before"):
            pass
        again()
        with mlflow.start_span("after"):
            pass
    finally:
        mlflow.tracing.reset()
    assert [trace.name for trace in captured.traces] == ["before", "after"]


@pytest.mark.parametrize(
    ("version", "said"),
    [("2.22.4", "too old: install mlflow>=3"), ("what?", "cannot be read")],
)
def test_a_version_that_cannot_be_bridged_is_said_and_left_alone(
    version: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow, "__version__", version)
    before = state()
    with capture(Settings(bootstrap_servers=NOWHERE)):
        assert state() == before
    assert said in caplog.text


def test_a_newer_version_gets_mlflows_own_spans(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow, "__version__", "3.99.0")
    with capture(Settings(bootstrap_servers=NOWHERE)) as captured, mlflow.start_span("x") as span:
        assert type(span) is mlflow.entities.LiveSpan
    assert [trace.name for trace in captured.traces] == ["x"]
    assert "newer than what was tested" in caplog.text
