"""What is added to archived traces: it comes back from there, is merged, and goes out again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spanferry_schemas import TracePart
from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services import mlflow_archived_traces
from spanferry_worker.services.mlflow_sink import MlflowSink
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.archives import LOCATION, LONG, files, is_archived, large, name, policy, told
from tests.sinks.conftest import OpenSink, Place, every_database
from tests.sinks.stores import dump, feedback, ids, late, span, trace

pytestmark = pytest.mark.mlflow


@every_database
@pytest.mark.parametrize("by_mlflow", [False, True])
async def test_what_comes_late_is_added(
    by_mlflow: bool, database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    """Also to what MLflow's own archival has moved, which MLflow refuses."""
    plain = await opened(database.uri)
    sink = plain if by_mlflow else await opened(database.uri, archive=policy(tmp_path))
    one, model = large(), large()
    child = span(
        ids(1)[0], one.spans[1].span_id, at_ms=-3, attributes={"x": json.dumps(LONG).encode()}
    )
    part = TracePart(tags={"late": "yes"}, metadata={"more": "m"})
    await sink.write([one])
    if by_mlflow:
        location = (tmp_path / "archive").as_uri()
        assert database.store.archive_traces(
            resolved_trace_archival_location=location,
            broader_retention="1m",
            long_retention_allowlist=set(),
        )
    assert is_archived(database, one)
    await sink.write([late(one, part=part)])
    await sink.write([late(one, spans=[child], assessments=[feedback()])])
    assert is_archived(database, one) is not by_mlflow
    assert len(files(tmp_path)) == 1
    found = told(database.trace(one.trace_id or b""))
    once = dump(database.uri)
    await sink.write([late(one, spans=[child], part=part), one])
    assert dump(database.uri) == once
    assert len(found["spans"]) == 3
    assert found["info"]["tags"]["late"] == "yes"
    assert len(found["info"]["assessments"]) == 1
    whole = trace([*model.spans, child], trace_id=model.trace_id, part=part)
    await plain.write([whole])
    expected = told(database.trace(whole.trace_id or b""))
    assert [one["inputs"] for one in found["spans"]] == [one["inputs"] for one in expected["spans"]]
    for key in ("mlflow.trace.sizeStats", "more"):
        ours, theirs = (t["info"]["trace_metadata"][key] for t in (found, expected))
        assert ours == theirs, key


async def test_a_crash_while_something_is_added(
    database: Place, opened: OpenSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path))
    one = large()
    await sink.write([one])
    added = late(one, spans=[span(ids(1)[0], one.spans[1].span_id)])
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def dies(*_: object, **__: object) -> None:
        raise ConnectionResetError("killed")

    for place in ("start_trace", "_load_trace_archival_data"):
        with monkeypatch.context() as patch:
            patch.setattr(SqlAlchemyStore, place, dies)
            with pytest.raises(TransientError):
                await sink.write([added])
        spans = database.trace(one.trace_id or b"").data.spans
        assert len(spans) == 3
        assert spans[0].outputs[0] == LONG
        assert not is_archived(database, one), "whole in the database, till it is tried again"
    await sink.write([added])
    assert is_archived(database, one)
    assert len(database.trace(one.trace_id or b"").data.spans) == 3


async def test_archived_spans_that_cannot_be_read(
    database: Place, opened: OpenSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow takes them for a trace without spans; adding to that would lose them."""
    sink = await opened(database.uri, archive=policy(tmp_path))
    one = large()
    await sink.write([one])
    once = dump(database.uri)
    added = late(one, spans=[span(ids(1)[0], one.spans[1].span_id)])
    file = next((tmp_path / "archive").rglob("traces.pb"))

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_archived_traces, "read", fails)
        with pytest.raises(TransientError):
            await sink.write([added])
    content = file.read_bytes()
    file.unlink()
    assert database.trace(one.trace_id or b"").data.spans == []
    with pytest.raises(PoisonError, match="bring the file back"):
        await sink.write([added])
    file.write_bytes(content[:-10])
    with pytest.raises(PoisonError, match="mend the archive"):
        await sink.write([added])
    assert dump(database.uri) == once
    file.write_bytes(content)
    await sink.write([added])
    assert len(database.trace(one.trace_id or b"").data.spans) == 3


async def test_a_change_while_spans_come_from_the_archive(
    database: Place, opened: OpenSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path))
    one = large()
    await sink.write([one])
    read = mlflow_archived_traces.read

    def slow(trace_id: str, uri: str) -> Any:
        spans = read(trace_id, uri)
        with database.store.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE trace_info SET db_payload_generation = db_payload_generation + 1")
            )
        return spans

    monkeypatch.setattr(mlflow_archived_traces, "read", slow)
    with pytest.raises(TransientError, match="has changed"):
        await sink.write([late(one, part=TracePart(tags={"a": "b"}))])
    assert is_archived(database, one)


@every_database
async def test_several_workers_add_to_the_same_traces_at_once(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    """As after a rebalance, when the old owner has not noticed yet: whatever they do in between."""
    sinks = [await opened(database.uri, archive=policy(tmp_path)) for _ in range(3)]
    batch = [large() for _ in range(2)]
    added = [
        [late(one, spans=[span(ids(1)[0], one.spans[1].span_id, at_ms=n)]) for one in batch]
        for n in range(3)
    ]

    async def stubbornly(sink: MlflowSink, some: list[AssembledTrace]) -> None:
        for _ in range(50):
            try:
                await sink.write(some)
            except TransientError:
                await asyncio.sleep(0.01)
            else:
                return
        pytest.fail("never stored")

    await asyncio.gather(*(stubbornly(sink, batch) for sink in sinks))
    for _ in range(2):
        await asyncio.gather(*map(stubbornly, sinks, added))
    for one in batch:
        found = database.trace(one.trace_id or b"")
        assert len(found.data.spans) == 5
        assert found.data.spans[0].outputs[0] == LONG
        stats = json.loads(found.info.trace_metadata["mlflow.trace.sizeStats"])
        assert stats["num_spans"] == 5


async def test_what_lies_elsewhere_is_refused_as_ever(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path))
    one = large()
    await sink.write([one])
    database.store.set_trace_tag(name(one), LOCATION, "ARTIFACT_REPO")
    once = dump(database.uri)
    with pytest.raises(PoisonError, match="neither in the database nor archived"):
        await sink.write([late(one, part=TracePart(tags={"a": "b"}))])
    assert dump(database.uri) == once
