"""What enable() and spanferry's own functions set holds for the traces of MLflow's API too."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow.entities.trace_location import MlflowExperimentLocation

import spanferry
from spanferry.buffer import new_buffer
from spanferry.lanes import Lanes, Ledger
from spanferry.settings import DropPolicy, load_settings
from spanferry.staging import Breath, Stager
from spanferry.testing import capture
from spanferry_schemas import Fragment, TracePart, decode
from tests.better_than_native.stub import Stub, stub_server
from tests.bridge.conftest import NOWHERE


def by_block() -> None:
    with mlflow.start_span("root"), mlflow.start_span("child"):
        pass


@mlflow.trace(name="root")
def by_decorator() -> None:
    with spanferry.start_span("child"):
        pass


def without_context() -> None:
    root = mlflow.start_span_no_context("root")
    mlflow.start_span_no_context("child", parent_span=root).end()
    root.end()


def by_client() -> None:
    client = mlflow.MlflowClient()
    root = client.start_trace("root")
    client.end_span(
        root.trace_id,
        client.start_span("child", trace_id=root.trace_id, parent_id=root.span_id).span_id,
    )
    client.end_trace(root.trace_id)


@pytest.fixture(params=[by_block, by_decorator, without_context, by_client])
def make(request: pytest.FixtureRequest) -> Callable[[], None]:
    """One trace by one of the ways of MLflow's API."""
    return request.param


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with stub_server(hangs=False) as stub:
        yield stub


@pytest.fixture(autouse=True)
def nothing_is_asked(own_store: None, server: Stub) -> Iterator[None]:
    """No tracking server, about no trace."""
    mlflow.set_tracking_uri(server.uri)
    yield
    assert server.requests == []


Enabled = Callable[..., capture]


@pytest.fixture
def enabled(accelerate: bool, monkeypatch: pytest.MonkeyPatch) -> Enabled:
    """As `enable()` with these options, in an environment with these variables."""

    def enter(variables: dict[str, str] | None = None, **options: Any) -> capture:
        for name, value in (variables or {}).items():
            monkeypatch.setenv(name, value)
        given = {"bootstrap_servers": NOWHERE, "accelerate": accelerate, **options}
        return capture(load_settings(given, variables or {}))

    return enter


def parts(captured: capture, make: Callable[[], None], times: int = 3) -> list[TracePart]:
    """The traces' own parts: of the first, and of those that may take a shorter way."""
    captured.clear()
    for _ in range(times):
        make()
    assert [len(trace.spans) for trace in captured.traces] == [2] * times
    return [trace.part for trace in captured.traces]


def parts_as_sent(captured: capture) -> list[TracePart]:
    """What the sender makes of the traces' own parts."""
    settings = captured.settings
    buffer = new_buffer(settings.buffer_bytes, DropPolicy.NEWEST)
    for parcel in captured.parcels:
        buffer.put(parcel)
    stager = Stager(settings, buffer, Lanes(), Ledger(lambda _: None), Breath())
    stager.collect_environment()

    async def take() -> list[TracePart]:
        found: list[TracePart] = []
        while (taken := await stager.take()) is not None:
            for record in taken[1]:
                event = decode(record.value)
                assert isinstance(event, Fragment)
                if event.trace is not None:
                    found.append(event.trace)
        return found

    return asyncio.run(take())


@pytest.mark.parametrize(
    "given",
    [
        {"metadata": {"region": "eu", "build": 7}},
        {"variables": {"SPANFERRY_METADATA": "region=eu,build=7"}},
        {"variables": {"SPANFERRY_METADATA": '{"region": "eu", "build": 7}'}},
    ],
)
def test_metadata_is_on_every_trace(
    enabled: Enabled, make: Callable[[], None], given: dict[str, Any]
) -> None:
    with enabled(**given) as captured:
        parts(captured, make)
    sent = parts_as_sent(captured)
    assert [(one.metadata["region"], one.metadata["build"]) for one in sent] == [("eu", "7")] * 3


def test_metadata_gives_way_to_what_the_trace_says_itself(enabled: Enabled) -> None:
    with enabled(metadata={"region": "eu", "mlflow.trace.user": "nobody"}) as captured:
        with mlflow.start_span("root"):
            mlflow.update_current_trace(metadata={"region": "us"}, user="ann")
        mlflow.start_span_no_context("root", metadata={"region": "asia"}).end()
    first, second = (one.metadata for one in parts_as_sent(captured))
    assert (first["region"], first["mlflow.trace.user"]) == ("us", "ann")
    assert (second["region"], second["mlflow.trace.user"]) == ("asia", "nobody")


def test_the_active_model_by_name(enabled: Enabled, make: Callable[[], None]) -> None:
    params = {"temperature": "0.2"}
    with enabled() as captured:
        assert {one.active_model for one in parts(captured, make)} == {None}
        with spanferry.set_active_model(name="agent-7", params=params):
            for one in parts(captured, make):
                assert (one.active_model, one.model_params) == ("agent-7", params)
        assert {one.active_model for one in parts(captured, make)} == {None}


def test_the_active_model_by_id(enabled: Enabled, make: Callable[[], None]) -> None:
    with enabled() as captured, spanferry.set_active_model(model_id="m-7"):
        for one in parts(captured, make):
            assert (one.active_model, one.metadata["mlflow.modelId"]) == (None, "m-7")


def test_a_model_of_the_traces_own_goes_before(enabled: Enabled) -> None:
    with (
        enabled() as captured,
        spanferry.set_active_model(model_id="m-7"),
        mlflow.start_span("root"),
    ):
        mlflow.update_current_trace(model_id="m-8")
    assert captured.traces[0].metadata["mlflow.modelId"] == "m-8"


def test_the_context_of_spanferry(enabled: Enabled, make: Callable[[], None]) -> None:
    with enabled() as captured, spanferry.context(metadata={"k": "v"}, tags={"team": "search"}):
        for one in parts(captured, make):
            assert (one.metadata["k"], one.tags["team"]) == ("v", "search")
            assert one.tags["mlflow.traceName"] == "root"


@pytest.mark.parametrize(
    ("given", "name", "by_id"),
    [
        ({}, None, None),
        ({"experiment": "chat"}, "chat", None),
        ({"experiment_id": "7"}, None, "7"),
        ({"variables": {"SPANFERRY_EXPERIMENT": "chat"}}, "chat", None),
        ({"variables": {"MLFLOW_EXPERIMENT_NAME": "chat"}}, "chat", None),
        ({"variables": {"MLFLOW_EXPERIMENT_ID": "7"}}, None, "7"),
        ({"experiment": "chat", "variables": {"MLFLOW_EXPERIMENT_ID": "7"}}, "chat", None),
    ],
)
def test_the_experiment(
    enabled: Enabled,
    make: Callable[[], None],
    given: dict[str, Any],
    name: str | None,
    by_id: str | None,
) -> None:
    """Without mlflow.set_experiment, and without looking for it anywhere."""
    with enabled(**given) as captured:
        for one in parts(captured, make):
            assert (one.experiment, one.experiment_id) == (name, by_id)


def test_what_mlflow_is_told_goes_before(
    enabled: Enabled, make: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with enabled(experiment="chat") as captured:
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", "5")
        assert {one.experiment_id for one in parts(captured, make)} == {"5"}
        with mlflow.start_span("root", trace_destination=MlflowExperimentLocation("9")):
            pass
        last = captured.traces[-1].part
        assert (last.experiment, last.experiment_id) == (None, "9")
