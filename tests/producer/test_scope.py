"""`spanferry.context`: what it gives to the traces inside, word for word as MLflow's."""

import threading
from collections.abc import Callable
from typing import Any

import mlflow
import pytest

import spanferry
from spanferry.testing import capture
from tests.producer.hostile import Hostile

KEYS = {"a", "b", "t", "mlflow.trace.session", "mlflow.trace.user"}


def nested(api: Any, context: Any) -> None:
    with (
        context(metadata={"a": "outer", "b": "outer"}, tags={"t": "outer"}, session_id="s"),
        context(metadata={"a": "inner"}, tags={"mlflow.traceName": "no"}, user="u"),
        api.start_span("root"),
        api.start_span("child"),
    ):
        pass


def the_traces_own_wins(api: Any, context: Any) -> None:
    with context(metadata={"a": "scope"}, tags={"t": "scope"}), api.start_span("root"):
        api.update_current_trace(metadata={"a": "own"}, tags={"t": "own"})


def open_traces_stay(api: Any, context: Any) -> None:
    with api.start_span("root"), context(metadata={"a": "late"}), api.start_span("child"):
        pass


def silence(api: Any, context: Any) -> None:
    @api.trace
    def traced() -> str:
        return "done"

    with context(enabled=False):
        with api.start_span("silent root"):
            assert traced() == "done"
        assert api.get_current_active_span() is None
    with api.start_span("root") as root:
        with context(enabled=False):
            with api.start_span("silent child"):
                assert api.get_current_active_span().span_id == root.span_id
                api.update_current_trace(metadata={"a": "still told"})
            api.start_span_no_context("silent too", parent_span=root).end()
            with context(metadata={"b": "b"}), api.start_span("silent still"):
                pass
            with context(enabled=True), api.start_span("heard"):
                pass
        traced()


@pytest.mark.mlflow
@pytest.mark.parametrize("program", [nested, the_traces_own_wins, open_traces_stay, silence])
def test_as_mlflow(
    program: Callable[[Any, Any], None],
    captured: capture,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    experiment_id = mlflow.create_experiment(program.__name__)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    program(mlflow, mlflow.tracing.context)
    program(spanferry, spanferry.context)
    (their,) = mlflow.search_traces(return_type="list", locations=[experiment_id])
    (our,) = captured.traces
    assert [span.name for span in our.spans] == [span.name for span in their.data.spans]
    assert our.name == their.info.tags["mlflow.traceName"]
    for texts, theirs in ((our.metadata, their.info.trace_metadata), (our.tags, their.info.tags)):
        assert {key: value for key, value in texts.items() if key in KEYS} == {
            key: value for key, value in theirs.items() if key in KEYS
        }


def test_it_ends_with_the_block_and_stays_in_its_thread(captured: capture) -> None:
    def elsewhere() -> None:
        with spanferry.start_span("elsewhere"):
            pass

    with spanferry.context(tags={"t": "in"}):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    elsewhere()
    assert [trace.tags.get("t") for trace in captured.traces] == [None, None]


def test_a_model_of_the_scope_goes_before_the_active_one(captured: capture) -> None:
    with (
        spanferry.set_active_model(name="by-name"),
        spanferry.context(metadata={"mlflow.modelId": "m-1"}),
        spanferry.start_span("root"),
    ):
        pass
    (trace,) = captured.traces
    assert (trace.part.active_model, trace.metadata["mlflow.modelId"]) == (None, "m-1")


def test_the_apps_exceptions_pass_and_hostile_values_do_not_raise(captured: capture) -> None:
    hostile: Any = Hostile()
    with (
        pytest.raises(ZeroDivisionError),
        spanferry.context(metadata=hostile, tags={hostile: hostile}, session_id=hostile),
        spanferry.start_span("root"),
    ):
        raise ZeroDivisionError
    (trace,) = captured.traces
    assert "cannot record Hostile" in trace.metadata["mlflow.trace.session"]


LEVELS: tuple[tuple[Any, str, int], ...] = (
    (["trip-1", "épisode-2"], '["trip-1","épisode-2"]', 0),
    (["one"], '["one"]', 0),
    (["\ud800"], '["?"]', 0),
    ([], "[]", 1),
    (["a", 1], "['a', 1]", 1),
    (("a", "b"), "('a', 'b')", 1),
    (7, "7", 1),
)


@pytest.mark.parametrize(("session", "kept", "said"), LEVELS)
def test_a_session_may_have_levels(
    session: Any, kept: str, said: int, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    """As MLflow 3.18 keeps them: compact JSON."""
    with spanferry.context(session_id=session), spanferry.start_span("in a context"):
        pass
    with spanferry.start_span("updated"):
        spanferry.update_current_trace(session_id=session)
    assert [trace.metadata["mlflow.trace.session"] for trace in captured.traces] == [kept] * 2
    assert len(caplog.records) == said


def test_as_a_decorator(captured: capture) -> None:
    @spanferry.context(tags={"t": "decorated"})
    @spanferry.trace
    def answer() -> int:
        return 42

    assert [answer(), answer()] == [42, 42]
    assert [trace.tags["t"] for trace in captured.traces] == ["decorated"] * 2


def test_left_in_another_context_it_changes_nothing_there(captured: capture) -> None:
    import contextvars

    block = spanferry.context(tags={"t": "elsewhere"})
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    with spanferry.start_span("root"):
        pass
    assert "t" not in captured.traces[0].tags
