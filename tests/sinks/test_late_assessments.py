"""Feedback on stored traces, many at once: the rows of MLflow's create_assessment, without calling it."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from spanferry_schemas import Assessment, AssessmentKind, TracePart
from spanferry_worker.errors import PartlyRefusedError, PoisonError, TraceNotFoundError
from spanferry_worker.services import mlflow_bulk
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import DATABASES, OpenSink, Place, every_database
from tests.sinks.stores import dump, feedback, five_spans, late, trace
from tests.sinks.test_assessments import by_request

pytestmark = pytest.mark.mlflow

DAY_NS = 86_400 * 10**9
QUEUE = "sql_trace_rollup_rebuild_queue"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The assessments for which MLflow's own method is called."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    called: list[str] = []
    original = SqlAlchemyStore.create_assessment

    def spy(self: Any, assessment: Any) -> Any:
        called.append(assessment.assessment_id)
        return original(self, assessment)

    monkeypatch.setattr(SqlAlchemyStore, "create_assessment", spy)
    return called


def shifted(one: AssembledTrace, ns: int) -> AssembledTrace:
    """The same trace at another time."""
    spans = [
        msgspec.structs.replace(span, start_ns=span.start_ns + ns, end_ns=span.end_ns + ns)
        for span in one.spans
    ]
    return msgspec.structs.replace(one, spans=spans)


def judged(traces: Sequence[AssembledTrace], **fields: Any) -> list[AssembledTrace]:
    return [late(one, assessments=[feedback(**fields)]) for one in traces]


def all_kinds() -> list[Assessment]:
    return [
        feedback(name="plain"),
        feedback(name="", value=b"0.25", source_type="llm_judge", source_id="gpt"),
        feedback(name="number", value=b"1e400"),
        feedback(name="odd number", value=b"NaN"),
        feedback(name="json", value=b'{"score": [1, 2.5, "\xc3\xbc"]}', rationale="be\0cause"),
        feedback(name="text", value='"\u00e9\U0001f600\\\\ \' \\" \\n\\t"'.encode()),
        feedback(name="span", span_id=b"12345678", metadata={"k": "v"}),
        feedback(name="run", metadata={"mlflow.assessment.sourceRunId": "ab" * 16}),
        feedback(name="failed", value=b"null", error=("TIMEOUT", "too slow", "at line 1")),
        feedback(name="wanted", kind=AssessmentKind.EXPECTATION, value=b'"Paris"'),
        feedback(name="nothing wanted", kind=AssessmentKind.EXPECTATION, value=b"null"),
        feedback(name="n" * 900, source_id="s" * 900),
        feedback(name="long id", assessment_id="a" * 80),
        feedback(name="type", source_type="ALIEN"),
    ]


def taken(place: Place, table: str) -> list[dict[str, Any]]:
    """All rows of a table, which is empty then."""
    engine = sa.create_engine(place.database)
    with engine.begin() as connection:
        rows = connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()
        found = sorted((dict(row) for row in rows), key=repr)
        connection.execute(sa.text(f"DELETE FROM {table}"))
    engine.dispose()
    return found


@every_database
async def test_many_make_no_call_of_mlflows_method(
    database: Place, opened: OpenSink, calls: list[str]
) -> None:
    sink = await opened(database.uri)
    traces = [five_spans() for _ in range(200)]
    await sink.write(traces)
    judgements = judged(traces)
    await sink.write(judgements)
    assert calls == []
    before = dump(database.database)
    assert len(before["assessments"]) == 200
    assert {row["trace_id"] for row in before["assessments"]} == {
        row["request_id"] for row in before["trace_info"]
    }
    await sink.write(judgements)
    await (await opened(database.uri, bulk=False)).write(judgements)
    assert dump(database.database) == before
    assert calls == []


@every_database
@pytest.mark.parametrize("rollups", ["true", "false"])
async def test_rows_are_those_of_mlflows_method(
    rollups: str,
    database: Place,
    opened: OpenSink,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED", rollups)
    traces = [
        five_spans(),
        shifted(five_spans(), DAY_NS),
        shifted(five_spans(part=TracePart(experiment="other")), 2 * DAY_NS),
    ]
    kinds = all_kinds()
    judgements = [
        late(traces[index % 3], assessments=[one, feedback(name="second")])
        for index, one in enumerate(kinds)
    ]
    ways = [await opened(database.uri, bulk=bulk) for bulk in (True, False)]
    await ways[0].write(traces)
    taken(database, QUEUE)
    found = []
    for sink in ways:
        await sink.write(judgements)
        assert bool(calls) is (sink is ways[1])
        found.append((taken(database, "assessments"), taken(database, QUEUE)))
    assert len(found[0][0]) == 2 * len(kinds)
    assert bool(found[0][1]) is (rollups == "true")
    if rollups == "true":
        assert {row["rollup_family"] for row in found[0][1]} == {"assessment"}
        assert len(found[0][1]) == 3
    assert found[0] == found[1]


@every_database
async def test_by_client_request_id(database: Place, opened: OpenSink, calls: list[str]) -> None:
    sink = await opened(database.uri)
    traces = [five_spans(part=TracePart(client_request_id=f"r-{number}")) for number in range(20)]
    await sink.write(traces)
    judgements = [by_request(f"r-{number}") for number in range(20)]
    both = by_request("r-0")
    unknown = by_request("nobody").assessments
    both = msgspec.structs.replace(both, assessments=[*both.assessments, *unknown])
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write([*judgements, both, judgements[0]])
    assert calls == []
    assert {place: type(error) for place, error in raised.value.refused.items()} == {
        20: TraceNotFoundError
    }
    stored = [[one.name for one in database.info(t.trace_id or b"").assessments] for t in traces]
    assert stored == [["good", "good"], *[["good"]] * 19]
    before = dump(database.database)
    await sink.write(judgements)
    assert dump(database.database) == before


@every_database
async def test_in_a_batch_with_all_that_it_may_meet(
    database: Place, opened: OpenSink, calls: list[str]
) -> None:
    """Its trace, what overrides it, the same again, tags, and one whose trace is not there."""
    sink = await opened(database.uri)
    known, new = five_spans(), five_spans()
    await sink.write([known])
    on_known = feedback(name="relevance", span_id=b"12345678")
    on_new = feedback(name="on new")
    better = feedback(name="", value=b"false", overrides=on_known.assessment_id)
    tagged = feedback(name="with a tag")
    batch = [
        late(known, assessments=[better, feedback(name="beside")]),
        late(new, assessments=[on_new]),
        new,
        late(known, assessments=[on_known]),
        late(known, assessments=[on_known]),
        late(known, assessments=[tagged], part=TracePart(tags={"a": "b"})),
        trace([], assessments=[feedback(name="lost")]),
    ]
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write(batch)
    assert list(raised.value.refused) == [6]
    assert sorted(calls) == sorted([better.assessment_id, tagged.assessment_id])
    info = database.info(known.trace_id or b"")
    assert sorted((one.name, bool(one.valid)) for one in info.assessments) == [
        ("beside", True),
        ("relevance", False),
        ("relevance", True),
        ("with a tag", True),
    ]
    assert info.tags["a"] == "b"
    assert [one.name for one in database.info(new.trace_id or b"").assessments] == ["on new"]


@every_database
async def test_several_workers_store_the_same_at_once(database: Place, opened: OpenSink) -> None:
    traces = [five_spans() for _ in range(30)]
    sinks = [await opened(database.uri) for _ in range(3)]
    await sinks[0].write(traces)
    judgements = judged(traces)
    async with asyncio.TaskGroup() as tasks:
        for sink in sinks:
            tasks.create_task(sink.write(judgements))
    assert len(dump(database.database)["assessments"]) == 30


async def test_where_another_was_faster_mlflows_method_decides(
    database: Place,
    opened: OpenSink,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = await opened(database.uri)
    known = five_spans()
    await sink.write([known])
    one, other = feedback(name="one"), feedback(name="other")
    new = five_spans(assessments=[one])

    def owners(*_: object) -> dict[str, str]:
        return {}  # as it was a moment ago

    monkeypatch.setattr(mlflow_bulk, "owners_of", owners)
    with caplog.at_level(logging.INFO):
        await sink.write([new, late(new, assessments=[one]), late(known, assessments=[other])])
    assert "left to MLflow's own code" in caplog.text
    assert calls == [other.assessment_id]
    assert [a.name for a in database.info(new.trace_id or b"").assessments] == ["one"]
    assert [a.name for a in database.info(known.trace_id or b"").assessments] == ["other"]


async def test_an_id_that_another_trace_has_is_refused_alone(
    database: Place, opened: OpenSink
) -> None:
    sink = await opened(database.uri)
    first, second, third = (five_spans() for _ in range(3))
    await sink.write([first, second, third])
    one = feedback()
    await sink.write([late(first, assessments=[one])])
    with pytest.raises(PoisonError) as raised:
        await sink.write([late(second, assessments=[one]), *judged([third])])
    assert list(getattr(raised.value, "refused", {})) == [0]
    rows = dump(database.database)["assessments"]
    assert sorted(row["trace_id"] for row in rows) == sorted(
        f"tr-{(one.trace_id or b'').hex()}" for one in (first, third)
    )


async def test_a_trace_that_is_deleted_meanwhile(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await opened(database.uri)
    gone, stays = five_spans(), five_spans()
    await sink.write([gone, stays])
    assess = mlflow_bulk.BulkInsert.assess

    def delayed(self: Any, assessments: Any) -> Any:
        experiment_id = database.info(gone.trace_id or b"").experiment_id
        named = [f"tr-{(gone.trace_id or b'').hex()}"]
        database.store.delete_traces(experiment_id, trace_ids=named)
        return assess(self, assessments)

    monkeypatch.setattr(mlflow_bulk.BulkInsert, "assess", delayed)
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write(judged([gone, stays]))
    assert list(raised.value.refused) == [0]
    assert len(database.info(stays.trace_id or b"").assessments) == 1


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
async def test_one_that_no_column_holds_is_refused_alone(database: Place, opened: OpenSink) -> None:
    sink = await opened(database.uri)
    traces = [five_spans() for _ in range(3)]
    await sink.write(traces)
    judgements = judged(traces)
    judgements[1] = judged([traces[1]], rationale="x" * 70_000)[0]
    with pytest.raises(PartlyRefusedError, match="rationale") as raised:
        await sink.write(judgements)
    assert list(raised.value.refused) == [1]
    assert len(dump(database.database)["assessments"]) == 2


@pytest.mark.parametrize("database", [one for one in DATABASES if one != "sqlite"], indirect=True)
@pytest.mark.parametrize("rollups", ["true", "false"])
async def test_it_waits_for_who_moves_the_trace(
    rollups: str, database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment and the time that are kept beside an assessment are the trace's last ones."""
    monkeypatch.setenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED", rollups)
    sink = await opened(database.uri)
    one = five_spans()
    await sink.write([one])
    engine = sa.create_engine(database.database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE trace_info SET timestamp_ms = 77"))
        writing = asyncio.create_task(sink.write(judged([one])))
        await asyncio.sleep(0.3)
        assert not writing.done()
    await writing
    engine.dispose()
    (row,) = dump(database.database)["assessments"]
    assert row["trace_timestamp_ms"] == 77


async def test_a_migrated_database_is_left_to_mlflow(
    database: Place, opened: OpenSink, calls: list[str]
) -> None:
    sink = await opened(database.uri)
    traces = [five_spans() for _ in range(2)]
    await sink.write(traces)
    engine = sa.create_engine(database.database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'later'"))
    engine.dispose()
    await sink.write(judged(traces))
    assert len(calls) == 2
    assert len(dump(database.database)["assessments"]) == 2
