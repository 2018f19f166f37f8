"""Parts of one trace that name several experiments, for an MLflow that moves no trace: 3.18 and later."""

import logging
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.version import VERSION
from packaging.version import Version

from spanferry_schemas import TracePart
from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services.mlflow_sql import SqlBackend
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.stores import dump, ids, late, span, trace

pytestmark = pytest.mark.mlflow

in_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def moves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow 3.18 does it, where an older one is installed."""
    if Version(VERSION) >= Version("3.18"):
        return
    start_trace = SqlAlchemyStore.start_trace

    def start(self: SqlAlchemyStore, info: Any) -> Any:
        for stored in self.batch_get_trace_infos([info.trace_id]):
            if stored.experiment_id != info.experiment_id:
                raise MlflowException(
                    f"Trace with ID '{info.trace_id}' already exists in another experiment.",
                    INVALID_PARAMETER_VALUE,
                )
        return start_trace(self, info)

    monkeypatch.setattr(SqlAlchemyStore, "start_trace", start)


def experiment_of(place: Place, trace_id: bytes | None) -> str:
    info = place.info(trace_id or b"")
    name: str = place.store.get_experiment(info.experiment_id).name
    return name


@in_sqlite
@pytest.mark.usefixtures("moves_none")
async def test_a_trace_stays_where_its_first_part_was_put(
    database: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await opened(database.uri)
    for _ in range(2):
        root, child = ids(2)
        first = trace([span(child, root)], part=TracePart(experiment="first"), complete=False)
        rest = late(first, spans=[span(root)], part=TracePart(experiment="root's", tags={"a": "b"}))
        await sink.write([first])
        await sink.write([rest])
        assert experiment_of(database, first.trace_id) == "first"
        found = database.trace(first.trace_id or b"")
        assert len(found.data.spans) == 2
        assert (found.info.state.value, found.info.tags["a"]) == ("OK", "b")
    once = dump(database.database, without={"db_payload_generation"})
    await sink.write([rest])
    assert dump(database.database, without={"db_payload_generation"}) == once
    said = [one for one in caplog.records if "stay in the experiment" in one.getMessage()]
    assert [one.levelno for one in said] == [logging.WARNING]


@in_sqlite
@pytest.mark.usefixtures("moves_none")
async def test_parts_that_begin_in_two_experiments_at_once(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker is faster, between our look and our write."""
    sink = await opened(database.uri)
    root, child = ids(2)
    first = trace([span(root)], part=TracePart(experiment="root's"))
    rest = late(first, spans=[span(child, root)], part=TracePart(experiment="other"))
    await sink.write([first])
    there, looks = SqlBackend._there, iter([True])
    monkeypatch.setattr(
        SqlBackend, "_there", lambda self, some: [] if next(looks, False) else there(self, some)
    )
    with pytest.raises(TransientError, match="another experiment"):
        await sink.write([rest])
    await sink.write([rest])
    assert experiment_of(database, first.trace_id) == "root's"
    assert len(database.trace(first.trace_id or b"").data.spans) == 2


@in_sqlite
@pytest.mark.usefixtures("moves_none")
async def test_one_that_nobody_can_see_is_refused(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is with one of another workspace."""
    sink = await opened(database.uri)
    first = trace([span(ids(1)[0])], part=TracePart(experiment="theirs"))
    await sink.write([first])
    monkeypatch.setattr(SqlBackend, "_there", lambda *_: [])
    ours = late(first, spans=[span(ids(1)[0])], part=TracePart(experiment="ours"))
    with pytest.raises(PoisonError, match="another experiment"):
        await sink.write([ours])
