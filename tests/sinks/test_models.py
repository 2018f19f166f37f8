"""LoggedModels for active models: found by name, made once, and never worth a trace."""

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mlflow.entities import LoggedModelStatus, LoggedModelTag
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from spanferry_schemas import TracePart
from spanferry_worker.services.mlflow_models import Models
from spanferry_worker.services.mlflow_resolve import MISSING_S, Resolver
from tests.sinks.conftest import OpenSink, Place, every_database, everywhere
from tests.sinks.gateway import Answer, Gateway, Seen, gateway
from tests.sinks.rights import user_without
from tests.sinks.stores import dump, five_spans, late

pytestmark = pytest.mark.mlflow

MODEL_ID = "mlflow.modelId"


def name() -> str:
    return f"experiment {secrets.token_hex(4)}"


def model_of(place: Place, trace_id: bytes | None) -> str | None:
    found: str | None = place.info(trace_id or b"").trace_metadata.get(MODEL_ID)
    return found


@everywhere
async def test_the_active_model(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    part = TracePart(experiment=name(), active_model="my-agent")
    first, second = five_spans(part=part), five_spans(part=part)
    await sink.write([first])
    await (await opened(place.uri)).write([second])
    model_id = place.info(first.trace_id or b"").trace_metadata["mlflow.modelId"]
    assert place.info(second.trace_id or b"").trace_metadata["mlflow.modelId"] == model_id
    model = place.store.get_logged_model(model_id)
    assert (model.name, str(model.status)) == ("my-agent", "READY")
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert model.experiment_id == place.info(first.trace_id or b"").experiment_id

    # What a late part brings does not move a trace to a model made since.
    newer = place.store.create_logged_model(model.experiment_id, name="my-agent")
    await (await opened(place.uri)).write([late(first, part=part)])
    third = five_spans(part=part)
    await (await opened(place.uri)).write([third])
    assert place.info(first.trace_id or b"").trace_metadata["mlflow.modelId"] == model_id
    assert place.info(third.trace_id or b"").trace_metadata["mlflow.modelId"] == newer.model_id


async def test_a_model_id_is_stored_as_given(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    metadata = {"mlflow.modelId": "m-unknown"}
    one = five_spans(part=TracePart(metadata=metadata, active_model="ignored"))
    await sink.write([one])
    assert place.info(one.trace_id or b"").trace_metadata["mlflow.modelId"] == "m-unknown"


async def test_a_model_name_that_mlflow_refuses(
    place: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await opened(place.uri)
    one, two = (five_spans(part=TracePart(active_model="v1.2/x")) for _ in range(2))
    await sink.write([one, two])
    assert "mlflow.modelId" not in place.info(one.trace_id or b"").trace_metadata
    said = [r for r in caplog.records if "without their model" in r.message]
    assert len(said) == 1


@everywhere
async def test_a_model_name_longer_than_mlflow_holds(
    place: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await opened(place.uri)
    long = "\u00fc" * 400 + "v" * 200
    some = [five_spans(part=TracePart(experiment="models", active_model=long)) for _ in range(2)]
    await sink.write(some)
    (model_id,) = {model_of(place, one.trace_id) for one in some}
    assert place.store.get_logged_model(model_id).name == long[:500]
    assert caplog.text.count("a model name of 600 characters is cut to 500") == 1


def said_of(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


TABLES = ("logged_models", "logged_model_params", "entity_associations")
SAID = ("may not make", "lacks parameters", "without links to their prompts")


@pytest.mark.parametrize("place", ["postgres", "mariadb"], indirect=True)
@pytest.mark.parametrize("bulk", [True, False])
async def test_a_database_user_who_may_not_make_models(
    bulk: bool, place: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    there = "there before"
    known_id = place.store.create_logged_model("0", name=there).model_id
    uri, grant = user_without(place, *TABLES)
    sink = await opened(uri, default_experiment="Default", bulk=bulk)
    params, prompts = {"llm": "small"}, (("p", "1"),)

    def traces() -> list[Any]:
        named = ("missing", "missing too", there)
        return [
            five_spans(part=TracePart(active_model=model, model_params=params, prompts=prompts))
            for model in named
        ]

    batches = [traces(), traces()]
    for batch in batches:
        await sink.write(batch)
        found = [model_of(place, one.trace_id) for one in batch]
        assert found == [None, None, known_id]
    assert [said_of(caplog, words) for words in SAID] == [1, 1, 1]
    assert "credentials" not in caplog.text
    assert place.store.get_logged_model(known_id).params == {}

    grant()
    later = await opened(uri, default_experiment="Default", bulk=bulk)
    batch = traces()
    await later.write(batch)
    assert all(model_of(place, one.trace_id) for one in batch)
    assert place.store.get_logged_model(known_id).params == params
    assert len(dump(place.database)["entity_associations"]) == 3


@pytest.fixture
def before(place: Place) -> Iterator[Gateway]:
    """A gateway before the tracking server."""
    with gateway(place.uri) as one:
        yield one


def to_models(seen: Seen) -> Answer | None:
    """A rule: what MLflow's auth says where a role may write traces alone."""
    path = seen.path.partition("?")[0]
    forbidden = path.endswith(("/logged-models", "/params", "/link-prompts"))
    return Answer(403, {}, b"Permission denied") if forbidden else None


@pytest.mark.parametrize("place", ["server"], indirect=True)
async def test_a_server_that_lets_nobody_make_models(
    place: Place, before: Gateway, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    there = f"model {secrets.token_hex(4)}"
    known_id = place.store.create_logged_model("0", name=there).model_id
    before.rule = to_models
    sink = await opened(before.uri, default_experiment="Default")
    parts = [
        TracePart(active_model=model, model_params={"llm": "small"}, prompts=(("p", "1"),))
        for model in (f"{there} not", there)
    ]
    for _ in range(2):
        batch = [five_spans(part=part) for part in parts]
        await sink.write(batch)
        assert [model_of(place, one.trace_id) for one in batch] == [None, known_id]
    assert [said_of(caplog, words) for words in SAID] == [1, 1, 1]
    assert "credentials" not in caplog.text
    assert len(before.paths("/params")) == 1, "asked for every trace"
    assert place.store.get_logged_model(known_id).params == {}


class Meeting:
    """MLflow's store; who makes a model waits until all others are about to, or have begun."""

    def __init__(self, store: Any, barrier: threading.Barrier) -> None:
        self._store = store
        self._barrier = barrier

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._store, attribute)

    def create_logged_model(self, **fields: Any) -> Any:
        self._barrier.wait(30)
        made = self._store.create_logged_model(**fields)
        self._barrier.wait(30)
        return made


@everywhere
def test_workers_that_make_a_model_at_the_same_time_make_one(place: Place) -> None:
    workers = 3
    experiment_id = place.store.create_experiment(name())
    stores = Meeting(place.store, threading.Barrier(workers))
    resolvers = [
        Resolver(stores, default_experiment="d", tracking_uri=place.uri) for _ in range(workers)
    ]
    params = {"llm": "small"}
    with ThreadPoolExecutor(workers) as threads:
        asked = [threads.submit(one.model_id, "agent", experiment_id, {}) for one in resolvers]
        (model_id,) = {one.result() for one in asked}
    (model,) = place.store.search_logged_models([experiment_id])
    assert (model.model_id, str(model.status)) == (model_id, "READY")
    later = Resolver(place.store, default_experiment="d", tracking_uri=place.uri)
    assert later.model_id("agent", experiment_id, params) == model_id


class Between:
    """MLflow's store, in which something happens after a model is made."""

    def __init__(self, store: Any, happens: Callable[[], None]) -> None:
        self._store = store
        self._happens = happens

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._store, attribute)

    def create_logged_model(self, **fields: Any) -> Any:
        made = self._store.create_logged_model(**fields)
        self._happens()
        return made


@every_database
@pytest.mark.parametrize("finished", [True, False])
def test_one_that_another_worker_has_finished_wins(finished: bool, database: Place) -> None:
    """Though it is younger; of two that are in the making the older one does."""
    store = database.store
    others: list[str] = []

    def make_another() -> None:
        tags = [LoggedModelTag(MLFLOW_MODEL_IS_EXTERNAL, "true")]
        while True:  # a later millisecond
            other = store.create_logged_model("0", name="agent", tags=tags)
            if other.creation_timestamp > min(
                one.creation_timestamp for one in store.search_logged_models(["0"])
            ):
                break
            store.delete_logged_model(other.model_id)
        if finished:
            store.finalize_logged_model(other.model_id, LoggedModelStatus.READY)
        others.append(other.model_id)
        # who looks for the first time takes the same one
        seen.append(Models(store, database.uri).look_up("agent", "0"))

    seen: list[str] = []
    found = Models(Between(store, make_another), database.uri).look_up("agent", "0")
    assert seen == [found]
    assert (found == others[0]) is finished
    left = {one.model_id for one in store.search_logged_models(["0"])}
    assert left == ({found} if finished else {found, *others})


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_one_of_two_that_cannot_be_deleted_is_left(
    database: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    store = database.store

    def refuses(_: str) -> None:
        raise MlflowException("no deletions today")

    def make_another() -> None:
        other = store.create_logged_model("0", name="agent")
        others.append(other.model_id)

    others: list[str] = []
    monkeypatch.setattr(store, "delete_logged_model", refuses)
    assert [Models(Between(store, make_another), database.uri).look_up("agent", "0")] == others
    assert said_of(caplog, "no deletions today") == 1


def test_a_refusal_is_believed_for_a_while(database: Place) -> None:
    """One that the worker may make later is made soon after."""
    now = [0.0]
    asked: list[str] = []

    class Refusing:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(database.store, attribute)

        def create_logged_model(self, **fields: Any) -> Any:
            from mlflow.exceptions import MlflowException
            from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

            asked.append(fields["name"])
            if len(asked) == 1:
                raise MlflowException("Permission denied", PERMISSION_DENIED)
            return database.store.create_logged_model(**fields)

    resolver = Resolver(
        Refusing(), default_experiment="d", tracking_uri=database.uri, clock=lambda: now[0]
    )
    for _ in range(3):
        assert resolver.model_id("agent", "0", {}) is None
    assert asked == ["agent"]
    now[0] = MISSING_S + 0.1
    assert resolver.model_id("agent", "0", {}) is not None
