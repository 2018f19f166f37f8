"""New traces straight into MLflow's tables: the very rows that MLflow's own methods leave behind."""

import json
import logging
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.version import VERSION

from spanferry_schemas import Span, SpanEvent, SpanLink, StatusCode, TracePart, TraceState
from spanferry_worker.errors import PoisonError
from spanferry_worker.services import mlflow_bulk
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_insert import Table
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent
from tests.sinks.conftest import DATABASES, OpenSink, Place, every_database, make_place
from tests.sinks.stores import dump, feedback, five_spans, ids, span, trace

pytestmark = pytest.mark.mlflow

USAGE = "mlflow.chat.tokenUsage"
MODEL = "mlflow.llm.model"
COUNTS = b'{"input_tokens":10,"output_tokens":5,"total_tokens":15}'


def root(**attributes: bytes) -> Span:
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    return span(ids(1)[0], span_type="LLM", attributes=named)


def one(*spans: Span, **fields: Any) -> AssembledTrace:
    return trace(list(spans), **fields)


def traces() -> dict[str, AssembledTrace]:
    """One for each thing that the two ways could do differently."""
    return {**models_and_counts(), **attributes(), **spans(), **records()}


def models_and_counts() -> dict[str, AssembledTrace]:
    first, second = ids(2)
    return {
        "plain": five_spans(part=TracePart(tags={"a": "b"}, metadata={"m": "x" * 400})),
        "model in inputs": one(root(mlflow__spanInputs=b'{"model":"gpt-4o","x":1}')),
        "model in outputs": one(root(mlflow__spanOutputs=b'{"model":"gpt-4o"}')),
        "model that is no text": one(
            root(mlflow__spanInputs=b'{"model":{"a":1}}', mlflow__spanOutputs=b'{"model":"x"}')
        ),
        "cost": one(
            root(
                mlflow__chat__tokenUsage=COUNTS,
                mlflow__llm__model=b'"gpt-4o-mini"',
                mlflow__llm__provider=b'"openai"',
            )
        ),
        "cost by the inputs": one(
            root(mlflow__chat__tokenUsage=COUNTS, mlflow__spanInputs=b'{"model":"gpt-4o-mini"}')
        ),
        "cost of an agent and its model": one(
            span(first, span_type="AGENT", attributes={USAGE: COUNTS, MODEL: b'"gpt-4o-mini"'}),
            span(second, first, span_type="LLM", attributes={USAGE: COUNTS, MODEL: b'"gpt-4o"'}),
        ),
        "usage of parent and child": one(
            span(first, span_type="AGENT", attributes={USAGE: COUNTS}),
            span(second, first, span_type="LLM", attributes={USAGE: COUNTS}),
        ),
    }


def attributes() -> dict[str, AssembledTrace]:
    return {
        "json in json": one(
            root(
                mlflow__spanInputs=json.dumps(json.dumps({"a": ["b"]})).encode(),
                mlflow__spanOutputs=json.dumps(' "quoted"').encode(),
                x=b'"1"',
                y=b'"[not json"',
            )
        ),
        "own attributes": one(root(temperature=b"0.2", customer=b'"acme"')),
        "a dialect": one(
            root(
                gen_ai__request__model=b'"gpt-4o"',
                gen_ai__usage__input_tokens=b"7",
                gen_ai__usage__output_tokens=b"3",
                input__value=b'"question"',
            )
        ),
        "session and user": one(root(session__id=b'"s-1"', user__id=b'"u-1"')),
        "tags by attributes": one(root(mlflow__traceTag__team=b'"search"')),
    }


def spans() -> dict[str, AssembledTrace]:
    first, second = ids(2)
    return {
        "event": one(
            span(first, events=[SpanEvent("exception", 1, b'{"exception.message":"no"}')])
        ),
        "link": one(span(first, links=[SpanLink(secrets.token_bytes(16), second, b'{"a":1}')])),
        "error": one(span(first, status=StatusCode.ERROR, status_message="no \u20ac")),
        "unset": one(span(first, status=StatusCode.UNSET, span_type="")),
        "without a root": one(span(first, second), complete=False),
        "open": one(span(first, for_ms=None), complete=False),
        "child before the root": one(span(second, first, at_ms=-5), span(first)),
        "outlives the root": one(span(first), span(second, first, for_ms=50)),
    }


def records() -> dict[str, AssembledTrace]:
    first = ids(1)[0]
    deep = b"[" * 60 + b"]" * 60
    return {
        "odd text": one(
            root(mlflow__spanInputs='"\u00e9\u20ac\U0001f600\\u0000\\ud800"'.encode()),
            part=TracePart(tags={"\u00e9": "\U0001f600"}, request_preview="\u00e9" * 1200),
        ),
        "not json": one(root(mlflow__spanInputs=b"{broken", mlflow__spanOutputs=deep)),
        "nan": one(root(mlflow__spanOutputs=b"[NaN, 1e20, -0.0]")),
        "messages": one(
            root(
                mlflow__spanInputs=b'{"messages":[{"role":"user","content":"hello"}]}',
                mlflow__spanOutputs=b'{"choices":[{"message":{"role":"assistant","content":"hi"}}]}',
            )
        ),
        "judged": one(span(first), assessments=[feedback(), feedback(name="b", value=b"0.25")]),
        "said": one(
            span(first),
            part=TracePart(
                state=TraceState.ERROR,
                client_request_id="r-1",
                response_preview="",
                tags={"mlflow.traceName": "n" * 5000},
                metadata={"mlflow.trace.session": "s", "mlflow.trace.user": "u"},
            ),
        ),
        "model": one(span(first), part=TracePart(active_model="m-1", model_params={"a": "b"})),
    }


UNLIKE = {"model_id", "association_id", "created_time"}


def comparable(uri: str) -> dict[str, list[dict[str, Any]]]:
    """Every row, less where the artifacts lie and which model was made."""
    rows = dump(uri, without=UNLIKE)
    for table in ("trace_tags", "trace_request_metadata"):
        for row in rows[table]:
            if row["key"] in {"mlflow.artifactLocation", "mlflow.modelId"}:
                row["value"] = row["value"][-10:] if row["key"].endswith("Location") else ""
    return rows


@pytest.mark.parametrize("kind", DATABASES)
async def test_rows_are_those_of_mlflows_own_methods(
    kind: str, opened: OpenSink, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    made = traces()
    dumps = []
    for bulk in (True, False):
        folder = tmp_path / str(bulk)
        folder.mkdir()
        place = make_place(kind, request, folder)
        sink = await opened(place.uri, bulk=bulk)
        await sink.write(list(made.values()))
        dumps.append(comparable(place.database))
        place.close()
    ours, theirs = dumps
    names = {"tr-" + (one.trace_id or b"").hex(): name for name, one in made.items()}
    assert len(theirs["trace_info"]) == len(made)
    for table, rows in theirs.items():
        assert len(ours[table]) == len(rows), table
        for our, their in zip(ours[table], rows, strict=True):
            name = names[their.get("trace_id") or their.get("request_id") or their["source_id"]]
            assert our == their, (table, name)


@every_database
async def test_most_of_them_take_the_fast_way(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[frozenset[str]] = []
    insert = mlflow_bulk.BulkInsert.insert

    def spy(self: Any, rows: Any) -> frozenset[str]:
        stored.append(insert(self, rows))
        return stored[-1]

    monkeypatch.setattr(mlflow_bulk.BulkInsert, "insert", spy)
    sink = await opened(database.uri)
    made = traces()
    await sink.write(list(made.values()))
    slow = {
        name
        for name, one in made.items()
        if not any("tr-" + (one.trace_id or b"").hex() in some for some in stored)
    }
    assert slow == {"tags by attributes"}


@every_database
async def test_what_is_there_already_is_left_to_mlflow(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker is faster, between our look and our write."""
    sink = await opened(database.uri)
    known, new = five_spans(), five_spans()
    await sink.write([known])
    monkeypatch.setattr(
        "spanferry_worker.services.mlflow_sql.SqlBackend._there", lambda *_: [], raising=True
    )
    await sink.write([known, new])
    monkeypatch.undo()
    rows = dump(database.database)
    assert len(rows["trace_info"]) == 2
    assert len(rows["spans"]) == 10


@every_database
async def test_a_migrated_database_is_left_to_mlflow(
    database: Place,
    opened: OpenSink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = await opened(database.uri)
    engine = sa.create_engine(database.database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'other'"))
    engine.dispose()
    with caplog.at_level(logging.WARNING):
        await sink.write([five_spans()])
        await sink.write([five_spans()])
    said = [record for record in caplog.records if "now has revision other" in record.message]
    assert len(said) == 1
    assert len(dump(database.database)["spans"]) == 10


def test_every_database_of_the_installed_version_is_tested() -> None:
    assert [mlflow_bulk.why_not(name) for name in ("sqlite", "postgresql", "mysql")] == [None] * 3
    assert "mssql" in (mlflow_bulk.why_not("mssql") or "")
    assert mlflow_bulk.TESTED[VERSION] == private.latest_revision()


def of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_bulk, "VERSION", "3.99.0")


def of_another_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_bulk, "TESTED", {VERSION: "other"})


def with_a_column_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = mlflow_bulk._TABLES
    monkeypatch.setattr(mlflow_bulk, "_TABLES", (Table(first.table, first.columns[1:]), *others))


def without_a_column_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    *others, last = mlflow_bulk._TABLES
    more = (*last.columns, "new_column")
    monkeypatch.setattr(mlflow_bulk, "_TABLES", (*others, Table(last.table, more)))


@pytest.mark.parametrize(
    ("is_that", "says"),
    [
        (of_another_version, "MLflow 3.99.0 is not among the versions"),
        (of_another_revision, f"now has revision {private.latest_revision()}"),
        (with_a_column_that_is_not_written, "trace_info has other columns .*: request_id$"),
        (without_a_column_that_is_written, "assessments has other columns .*: new_column$"),
        (lambda _: None, None),
    ],
)
async def test_what_was_not_tested_is_said_and_left_to_mlflow(
    is_that: Callable[[pytest.MonkeyPatch], None],
    says: str | None,
    opened: OpenSink,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The database is as the installed MLflow makes it: so is every one that this MLflow opens."""
    place = make_place("sqlite", request, tmp_path)
    is_that(monkeypatch)
    started: list[str] = []
    start_trace = SqlAlchemyStore.start_trace

    def spy(self: SqlAlchemyStore, info: Any) -> Any:
        started.append(info.trace_id)
        return start_trace(self, info)

    monkeypatch.setattr(SqlAlchemyStore, "start_trace", spy)
    sink = await opened(place.uri)
    made = [five_spans(), five_spans()]
    await sink.write(made)
    said = [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "event", "") == LogEvent.WRITE_SLOWLY.value
    ]
    if says is None:
        assert (said, started) == ([], [])
    else:
        assert len(said) == 1
        assert re.search(says, said[0]), said
        assert sorted(started) == sorted("tr-" + (one.trace_id or b"").hex() for one in made)
    assert len(dump(place.database)["spans"]) == 10


@every_database
async def test_an_experiment_deleted_meanwhile_refuses_its_own_traces(
    database: Place, opened: OpenSink
) -> None:
    """The worker believes for half a minute that it is there."""
    sink = await opened(database.uri)
    gone, stays = (TracePart(experiment=name) for name in ("gone", "stays"))
    await sink.write([five_spans(part=gone), five_spans(part=stays)])
    database.store.delete_experiment(database.store.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(PoisonError, match="active"):
        await sink.write([five_spans(part=gone), five_spans(part=stays)])
    await sink.write([five_spans(part=stays)])
