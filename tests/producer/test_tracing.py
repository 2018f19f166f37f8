"""Which span is whose child, what belongs to the trace, sampling, models, the environment."""

import asyncio
import concurrent.futures
import contextvars
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import spanferry
from spanferry.settings import Settings
from spanferry.testing import capture
from spanferry_schemas import TraceState


def in_thread(work: Any) -> Any:
    """What `work` returns in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_spans_nest_by_context(captured: capture) -> None:
    assert spanferry.get_current_active_span() is None
    assert spanferry.get_active_trace_id() is None
    with spanferry.start_span("root") as root:
        assert spanferry.get_current_active_span() is root
        assert spanferry.get_active_trace_id() == root.trace_id
        with spanferry.start_span("child") as child:
            assert child.parent_id == root.span_id
            assert spanferry.get_current_active_span() is child
        assert spanferry.get_current_active_span() is root
    assert spanferry.get_current_active_span() is None
    with spanferry.start_span("next") as following:
        assert following.trace_id != root.trace_id


async def test_tasks_inherit_the_span_and_do_not_mix(captured: capture) -> None:
    async def work(name: str) -> None:
        with spanferry.start_span(name) as span:
            await asyncio.sleep(0)
            with spanferry.start_span(f"{name} child") as child:
                await asyncio.sleep(0)
                assert child.parent_id == span.span_id

    with spanferry.start_span("root"):
        await asyncio.gather(*(work(f"task {n}") for n in range(5)))
    (trace,) = captured.traces
    assert len(trace.spans) == 11
    assert {trace.span(f"task {n}").parent_id for n in range(5)} == {trace.root.span_id}


def test_a_thread_starts_a_trace_of_its_own_unless_given_the_context(captured: capture) -> None:
    def work() -> str:
        with spanferry.start_span("in thread") as span:
            return span.trace_id

    with spanferry.start_span("root") as root:
        assert in_thread(work) != root.trace_id
        assert in_thread(lambda: contextvars.copy_context().run(work)) != root.trace_id
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(work)) == root.trace_id


def test_a_block_left_in_another_context_changes_nothing_there(captured: capture) -> None:
    block = spanferry.start_span("elsewhere")
    contextvars.copy_context().run(block.__enter__)
    with spanferry.start_span("here") as here:
        block.__exit__(None, None, None)
        assert spanferry.get_current_active_span() is here
    assert {trace.name for trace in captured.traces} == {"elsewhere", "here"}


def test_a_span_by_hand_goes_under_what_it_is_told(captured: capture) -> None:
    first = spanferry.start_span_no_context("first")
    with spanferry.start_span("around") as around:
        told = spanferry.start_span_no_context("told", parent_span=first)
        untold = spanferry.start_span_no_context("untold")
        assert spanferry.get_current_active_span() is around
    assert (told.parent_id, told.trace_id) == (first.span_id, first.trace_id)
    assert (untold.parent_id, untold.trace_id) == (around.span_id, around.trace_id)


def test_the_last_trace_is_known_everywhere_and_by_context(captured: capture) -> None:
    with spanferry.start_span("here") as here:
        pass

    def work() -> tuple[str, str | None]:
        before = spanferry.get_last_active_trace_id(thread_local=True)
        with spanferry.start_span("there") as there:
            pass
        return there.trace_id, before

    there, before = in_thread(work)
    assert before is None
    assert spanferry.get_last_active_trace_id() == there
    assert spanferry.get_last_active_trace_id(thread_local=True) == here.trace_id


def test_what_belongs_to_the_trace(captured: capture) -> None:
    with spanferry.start_span("root"), spanferry.start_span("child"):
        spanferry.update_current_trace(
            tags={"a": "1", "b": "2"},
            metadata={"m": "1"},
            client_request_id="request",
            request_preview="asked",
            response_preview="answered",
            state="ERROR",
            model_id="m-1",
            session_id="session",
            user="user",
        )
        spanferry.update_current_trace(tags={"b": "3"}, request_preview="", model_id="")
    part = captured.traces[0].part
    assert part.tags == {"mlflow.traceName": "root", "a": "1", "b": "3"}
    assert part.metadata == {
        "m": "1",
        "mlflow.trace.session": "session",
        "mlflow.trace.user": "user",
        "mlflow.modelId": "m-1",
    }
    assert (part.client_request_id, part.request_preview, part.response_preview) == (
        "request",
        "asked",
        "answered",
    )
    assert part.state is TraceState.ERROR
    assert captured.traces[0].state == "ERROR"
    assert captured.traces[0].root.status.status_code == "OK"


@pytest.mark.parametrize(
    ("change", "word", "kept"),
    [
        ({"tags": {"t": 3}}, "stored as text", {"t": "3"}),
        ({"tags": {3: True}}, "stored as text", {"3": "True"}),
        ({"tags": ["a"]}, "tags must be a dict", {}),
        ({"metadata": 7}, "metadata must be a dict", {}),
        ({"request_preview": 3}, "preview must be a string", {}),
        ({"response_preview": b"x"}, "preview must be a string", {}),
        ({"state": "IN_PROGRESS"}, "OK or ERROR", {}),
        ({"state": 3}, "OK or ERROR", {}),
    ],
)
def test_a_bad_value_is_said_once_and_costs_only_itself(
    change: Any, word: str, kept: Any, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    with spanferry.start_span("root"):
        for _ in range(2):
            spanferry.update_current_trace(session_id="session", **change)
    (trace,) = captured.traces
    assert trace.tags == {"mlflow.traceName": "root", **kept}
    assert trace.metadata == {"mlflow.trace.session": "session"}
    assert (trace.part.request_preview, trace.state) == (None, "OK")
    assert len(caplog.records) == 1
    assert word in caplog.text


def test_an_update_without_a_trace_or_after_it_is_said_once(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        spanferry.update_current_trace(tags={"a": "b"})
    with spanferry.start_span("root") as root:
        root.end()
        for _ in range(2):
            spanferry.update_current_trace(tags={"a": "b"})
    assert captured.traces[0].tags == {"mlflow.traceName": "root"}
    assert len(caplog.records) == 2
    assert "no current trace" in caplog.records[0].message
    assert "has ended" in caplog.records[1].message


def test_an_update_is_in_what_an_open_trace_hands_over_early() -> None:
    settings = Settings(bootstrap_servers="none:1", fragment_age_s=1e-9)
    with capture(settings) as captured, spanferry.start_span("root"):
        spanferry.update_current_trace(tags={"a": "1"})
        with spanferry.start_span("child"):
            pass
        spanferry.update_current_trace(tags={"a": "2"})
    first, last = (parcel.trace for parcel in captured.parcels)
    assert first is not None
    assert first.tags["a"] == "1"
    assert last is not None
    assert last.tags["a"] == "2"


def test_the_experiment_comes_from_the_settings_or_from_the_trace() -> None:
    settings = Settings(bootstrap_servers="none:1", experiment="by name", experiment_id="7")
    with capture(settings) as captured:
        with spanferry.start_span("plain"):
            pass
        with spanferry.start_span("own", trace_destination=SimpleNamespace(experiment_id="8")):
            pass
        spanferry.start_span_no_context("by hand", experiment_id="9").end()
    parts = [(trace.part.experiment_id, trace.part.experiment) for trace in captured.traces]
    assert parts == [("7", "by name"), ("8", None), ("9", None)]
    assert captured.traces[1].root.attributes["mlflow.experimentId"] == "8"


def test_destination_and_run_are_for_roots_only(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    destination = SimpleNamespace(experiment_id="8")
    root = spanferry.start_span("root", run_id="run-1")
    child = spanferry.start_span("child", run_id="run-2", trace_destination=destination)
    with root, child:
        pass
    (trace,) = captured.traces
    assert trace.metadata == {"mlflow.sourceRun": "run-1"}
    assert trace.part.experiment_id is None
    assert len(caplog.records) == 2


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize(
    ("ratio", "least", "most"), [("0", 0, 0), ("0.5", 350, 650), ("1", 1000, 1000)]
)
def test_traces_are_sampled_as_a_whole_at_their_start(
    ratio: str, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", ratio)
    with capture() as captured:
        for _ in range(1_000):
            with spanferry.start_span("root"), spanferry.start_span("child"):
                spanferry.start_span_no_context("by hand").end()
    assert least <= len(captured.traces) <= most
    assert all(len(trace.spans) == 3 for trace in captured.traces)
    kept = [int(trace.trace_id[-16:], 16) / 2**64 for trace in captured.traces]
    assert all(place < float(ratio) for place in kept)
    said = {trace.part.metadata.get("spanferry.sampling.upstream") for trace in captured.traces}
    assert said <= {None if ratio == "1" else f"p:{ratio}"}


@pytest.mark.usefixtures("unsaid")
def test_a_trace_that_is_not_sampled_is_no_reason_to_complain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    with capture() as captured, spanferry.start_span("root") as root:
        assert spanferry.get_current_active_span() is None
        assert spanferry.get_active_trace_id() is None
        spanferry.update_current_trace(tags={"a": "b"})
        spanferry.log_feedback(trace_id=root.trace_id, value=1)
        child = spanferry.start_span_no_context("child", parent_span=root)
        assert isinstance(child, spanferry.NoOpSpan)
    assert not captured.parcels
    assert not caplog.records


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize("ratio", ["half", "-1", "2", "nan"])
def test_a_wrong_ratio_is_said_once_and_all_is_traced(
    ratio: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", ratio)
    with capture() as captured:
        for _ in range(2):
            with spanferry.start_span("root"):
                pass
    assert len(captured.traces) == 2
    assert [ratio in record.message for record in caplog.records] == [True]


def models_of(captured: capture) -> list[tuple[str | None, str | None]]:
    """Active model and model id of each trace."""
    return [
        (trace.part.active_model, trace.metadata.get("mlflow.modelId")) for trace in captured.traces
    ]


def test_an_active_model_goes_with_the_traces_that_start_under_it(captured: capture) -> None:
    def trace() -> None:
        with spanferry.start_span("root"):
            pass

    trace()
    spanferry.set_active_model(name="first")
    trace()
    with spanferry.set_active_model(model_id="m-2") as model:
        assert (model.name, model.model_id) == (None, "m-2")
        trace()
        in_thread(trace)
    trace()
    in_thread(trace)
    with spanferry.start_span("root"):
        spanferry.update_current_trace(model_id="m-3")
    assert models_of(captured) == [
        (None, None),
        ("first", None),
        (None, "m-2"),
        (None, "m-2"),
        ("first", None),
        ("first", None),
        (None, "m-3"),
    ]


async def test_tasks_have_their_own_active_model(captured: capture) -> None:
    async def work(name: str) -> None:
        with spanferry.set_active_model(name=name):
            await asyncio.sleep(0)
            with spanferry.start_span(name):
                await asyncio.sleep(0)

    await asyncio.gather(*(work(f"model {n}") for n in range(4)))
    assert all(trace.part.active_model == trace.name for trace in captured.traces)


@pytest.mark.usefixtures("unsaid")
def test_the_environment_names_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_ACTIVE_MODEL_ID", "m-old")
    with capture() as captured, spanferry.start_span("root"):
        pass
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-env")
    with capture() as later:
        with spanferry.start_span("root"):
            pass
        with spanferry.set_active_model(name="set"), spanferry.start_span("root"):
            pass
    assert models_of(captured) == [(None, "m-old")]
    assert models_of(later) == [(None, "m-env"), ("set", None)]


def test_a_model_without_name_and_id_is_said_once(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    with spanferry.set_active_model(), spanferry.start_span("root"):
        pass
    assert models_of(captured) == [(None, None)]
    assert "needs a name or a model_id" in caplog.text


def test_a_root_may_get_its_name_late(captured: capture) -> None:
    with spanferry.start_span("GET /items/1") as root:
        with spanferry.start_span("child") as child:
            child.rename("renamed")
        root.rename("GET /items/{id}")
    with spanferry.start_span("root") as root:
        spanferry.update_current_trace(tags={"mlflow.traceName": "own"})
        root.rename("other")
    assert [(trace.name, trace.root.name) for trace in captured.traces] == [
        ("GET /items/{id}", "GET /items/{id}"),
        ("own", "other"),
    ]


def test_an_outlet_that_fails_does_not_fail_the_app(
    caplog: pytest.LogCaptureFixture, unsaid: None
) -> None:
    class Broken(capture):
        def put(self, parcel: Any) -> None:
            raise RuntimeError("broken outlet")

    with Broken(), spanferry.start_span("root"):
        pass
    assert "broken outlet" in caplog.text


def test_ids_of_all_threads_differ(captured: capture) -> None:
    def work() -> None:
        for _ in range(500):
            with spanferry.start_span("root"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({parcel.trace_id for parcel in captured.parcels}) == 2_000
    assert len({trace.root.span_id for trace in captured.traces}) == 2_000
