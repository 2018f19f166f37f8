"""Experiments by name: made once, deleted ones named, restored ones found."""

import asyncio
import itertools
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mlflow.entities import Experiment

from spanferry_schemas import TracePart
from spanferry_worker.errors import (
    FatalError,
    NoExperimentError,
    PartlyRefusedError,
    PoisonError,
    TransientError,
)
from spanferry_worker.runtime.lifecycle import make_parts
from spanferry_worker.services.mlflow_resolve import KEEP_S, MISSING_S, Resolver
from spanferry_worker.settings import MlflowSettings, Settings
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.gateway import Answer, Gateway, Seen, gateway
from tests.sinks.rights import user_without
from tests.sinks.stores import five_spans

pytestmark = pytest.mark.mlflow


def name() -> str:
    return f"experiment {secrets.token_hex(4)}"


async def test_the_experiment_by_id_by_name_and_by_default(place: Place, opened: OpenSink) -> None:
    default, named = name(), name()
    made = place.store.create_experiment(name())
    sink = await opened(place.uri, default_experiment=default)
    traces = [
        five_spans(part=TracePart(experiment_id=made, experiment="not looked at")),
        five_spans(part=TracePart(experiment=named)),
        five_spans(),
    ]
    assert place.store.get_experiment_by_name(default) is None, "made before it is needed"
    await sink.write(traces)
    found = [place.info(t.trace_id or b"").experiment_id for t in traces]
    assert found[0] == made
    assert found[1] == place.store.get_experiment_by_name(named).experiment_id
    assert found[2] == place.store.get_experiment_by_name(default).experiment_id


@everywhere
async def test_several_workers_make_one_experiment(place: Place, opened: OpenSink) -> None:
    sinks = [await opened(place.uri) for _ in range(3)]
    named = name()
    batches = [[five_spans(part=TracePart(experiment=named))] for _ in sinks]
    async with asyncio.TaskGroup() as tasks:
        for sink, batch in zip(sinks, batches, strict=True):
            tasks.create_task(sink.write(batch))
    ids = {place.info(batch[0].trace_id or b"").experiment_id for batch in batches}
    assert len(ids) == 1


async def test_an_unknown_id(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    good = five_spans()
    for unknown in ("987654321", "no number", "1.5"):
        bad = five_spans(part=TracePart(experiment_id=unknown))
        with pytest.raises(PoisonError, match="no experiment with the id"):
            await sink.write([good, bad])
    await sink.write([good])
    assert place.trace(good.trace_id or b"") is not None


@everywhere
async def test_a_deleted_experiment_and_its_restore(place: Place, opened: OpenSink) -> None:
    deleted = name()
    experiment_id = place.store.create_experiment(deleted)
    place.store.delete_experiment(experiment_id)
    by_name = five_spans(part=TracePart(experiment=deleted))
    by_id = five_spans(part=TracePart(experiment_id=experiment_id))
    sink = await opened(place.uri)
    for one in (by_name, by_id):
        with pytest.raises(PoisonError, match=f"restore --experiment-id {experiment_id}"):
            await sink.write([one])
    place.store.restore_experiment(experiment_id)
    await asyncio.sleep(MISSING_S)
    await sink.write([by_name, by_id])
    assert place.info(by_id.trace_id or b"").experiment_id == experiment_id


async def test_an_experiment_deleted_while_it_is_remembered(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    part = TracePart(experiment=name())
    first = five_spans(part=part)
    await sink.write([first])
    experiment_id = place.info(first.trace_id or b"").experiment_id
    place.store.delete_experiment(experiment_id)
    with pytest.raises(PoisonError, match=r"restore|active"):
        await sink.write([five_spans(part=part)])
    place.store.restore_experiment(experiment_id)
    await asyncio.sleep(MISSING_S)
    await sink.write([five_spans(part=part)])


@pytest.fixture
def before(place: Place) -> Iterator[Gateway]:
    """A gateway before the tracking server."""
    with gateway(place.uri) as one:
        yield one


def to_creations(status: int, body: bytes) -> Callable[[Seen], Answer | None]:
    """A rule: no experiment is made."""

    def rule(seen: Seen) -> Answer | None:
        return Answer(status, {}, body) if seen.path.endswith("experiments/create") else None

    return rule


def refused_alone(error: PartlyRefusedError, place: int, named: str) -> str:
    """What is said of the one that is refused: it names its experiment and the remedy."""
    assert list(error.refused) == [place]
    refused = error.refused[place]
    assert isinstance(refused, NoExperimentError)
    assert refused.experiment == named
    assert repr(named) in str(refused)
    assert f"mlflow experiments create --experiment-name '{named}'" in str(refused)
    return str(refused)


@pytest.mark.parametrize("place", ["server"], indirect=True)
@pytest.mark.parametrize(
    "body",
    [b"Permission denied", b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'],
    ids=["MLflow's", "JSON"],
)
async def test_a_server_that_refuses_to_make_it(
    body: bytes, place: Place, before: Gateway, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    before.rule = to_creations(403, body)
    sink = await opened(before.uri, default_experiment="Default")
    named = name()
    batch = [five_spans(), five_spans(part=TracePart(experiment=named)), five_spans()]
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write(batch)
    said = refused_alone(raised.value, 1, named)
    assert "Permission denied" in said
    assert "credentials" not in caplog.text
    assert place.trace(batch[1].trace_id or b"") is None
    assert all(place.trace(batch[other].trace_id or b"") for other in (0, 2))
    asked = len(before.paths("experiments/create"))
    with pytest.raises(NoExperimentError):
        await sink.write(batch[1:2])
    assert len(before.paths("experiments/create")) == asked, "asked for every trace"

    before.rule = lambda _: None
    await asyncio.sleep(MISSING_S)
    await sink.write(batch)
    assert place.trace(batch[1].trace_id or b"") is not None


@pytest.mark.parametrize("place", ["server"], indirect=True)
async def test_credentials_that_have_run_out_are_waited_for(
    place: Place, before: Gateway, opened: OpenSink
) -> None:
    before.rule = to_creations(401, b"Unauthorized")
    sink = await opened(before.uri, default_experiment="Default")
    with pytest.raises(TransientError):
        await sink.write([five_spans(part=TracePart(experiment=name()))])


@pytest.mark.parametrize("place", ["postgres", "mariadb"], indirect=True)
@pytest.mark.parametrize("bulk", [True, False])
async def test_a_database_user_who_may_not_make_it(
    bulk: bool, place: Place, opened: OpenSink
) -> None:
    uri, grant = user_without(place, "experiments")
    sink = await opened(uri, default_experiment="Default", bulk=bulk)
    named = name()
    batch = [five_spans(), five_spans(part=TracePart(experiment=named)), five_spans()]
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write(batch)
    assert "denied" in refused_alone(raised.value, 1, named)
    assert place.trace(batch[1].trace_id or b"") is None
    assert all(place.trace(batch[other].trace_id or b"") for other in (0, 2))
    grant()
    await asyncio.sleep(MISSING_S)
    await sink.write(batch)
    assert place.trace(batch[1].trace_id or b"") is not None


async def test_none_is_made_where_the_worker_is_told_so(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri, default_experiment="Default", create_experiments=False)
    there, named = name(), name()
    place.store.create_experiment(there)
    parts = [TracePart(), TracePart(experiment=named), TracePart(experiment=there)]
    batch = [five_spans(part=part) for part in parts]
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write(batch)
    assert "mlflow.create_experiments is off" in refused_alone(raised.value, 1, named)
    assert place.store.get_experiment_by_name(named) is None
    assert all(place.trace(batch[other].trace_id or b"") for other in (0, 2))

    made = place.store.create_experiment(named)
    await asyncio.sleep(MISSING_S)
    await sink.write(batch)
    assert place.info(batch[1].trace_id or b"").experiment_id == made


async def test_a_default_that_is_not_there_and_may_not_be_made(
    database: Place, opened: OpenSink
) -> None:
    default = name()
    with pytest.raises(FatalError, match=f"default experiment '{default}' is not there"):
        await opened(database.uri, default_experiment=default, create_experiments=False)
    database.store.create_experiment(default)
    await opened(database.uri, default_experiment=default, create_experiments=False)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("creates", [True, False])
def test_the_setting_reaches_the_store(creates: bool, database: Place) -> None:
    settings = MlflowSettings(
        tracking_uri=database.uri, experiment=name(), create_experiments=creates
    )
    sink = make_parts(Settings(mlflow=settings)).sink

    async def said() -> str:
        try:
            await sink.open()
        except FatalError as error:
            return str(error)
        finally:
            await sink.close()
        return ""

    assert ("mlflow.create_experiments is off" in asyncio.run(said())) is not creates


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_answers_are_kept_for_a_while(database: Place) -> None:
    asked: list[str] = []

    class Asked:
        """MLflow's store, with a note of what it is asked."""

        def __getattr__(self, attribute: str) -> Any:
            asked.append(attribute)
            return getattr(database.store, attribute)

    clock = Clock()
    resolver = Resolver(Asked(), default_experiment="d", tracking_uri=database.uri, clock=clock)
    part = TracePart(experiment="kept")
    first = resolver.experiment_id(part)
    asked.clear()
    clock.now = KEEP_S - 1
    assert resolver.experiment_id(part) == first
    assert asked == []
    clock.now = KEEP_S + 1
    database.store.delete_experiment(first)
    with pytest.raises(PoisonError):
        resolver.experiment_id(part)


def test_experiments_are_listed_while_others_are_looked_up() -> None:
    """By several threads: names are many where each app has its own experiment."""

    class Store:
        def get_experiment_by_name(self, name: str) -> Experiment:
            return Experiment(name.removeprefix("e"), name, "", "active")

    resolver = Resolver(Store(), default_experiment="d", tracking_uri="")
    numbers = itertools.count()
    done = threading.Event()

    def look_up() -> None:
        while not done.is_set():
            resolver.experiment_id(TracePart(experiment=f"e{next(numbers)}"))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=look_up) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        until = time.monotonic() + 1
        while time.monotonic() < until:
            listed = resolver.known_experiments()
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert listed
