"""Experiments and models by name: made once, deleted ones named, restored ones found."""

import asyncio
import secrets
from typing import Any

import pytest

from spanferry_schemas import TracePart
from spanferry_worker.errors import PoisonError
from spanferry_worker.services.mlflow_resolve import KEEP_S, MISSING_S, Resolver
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.stores import five_spans, late

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(120)]


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
