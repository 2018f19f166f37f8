"""Idempotence, late parts and traces in progress: what is stored is that of the union."""

import itertools
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from spanferry_schemas import Span, StatusCode, TracePart, TraceState
from spanferry_worker.errors import TraceNotFoundError, TransientError
from spanferry_worker.services import mlflow_read
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.stores import MS, START_NS, dump, feedback, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow

USAGE = "mlflow.chat.tokenUsage"


def llm(span_id: bytes, parent_id: bytes | None, given: int, made: int, **fields: Any) -> Span:
    usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
    return span(
        span_id,
        parent_id,
        span_type="LLM",
        attributes={
            USAGE: json.dumps(usage).encode(),
            "mlflow.llm.model": b'"gpt-4o-mini"',
            "mlflow.llm.provider": b'"openai"',
        },
        **fields,
    )


@everywhere
async def test_repeating_a_batch_changes_nothing(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    traces = [
        five_spans(part=TracePart(tags={"a": "b"}, metadata={"m": "x" * 400})) for _ in range(4)
    ]
    traces.append(
        trace(
            [llm(ids(1)[0], None, 100, 50)],
            assessments=[feedback(), feedback(name="second", value=b"0.25")],
        )
    )
    traces.append(trace([span(ids(1)[0], secrets.token_bytes(8))], complete=False))
    await sink.write(traces)
    once = dump(place.database)
    assert len(once["spans"]) >= 22
    await sink.write(traces)
    await sink.write(list(reversed(traces)))
    assert dump(place.database) == once


async def test_what_comes_again_is_read_at_once_but_not_more_than_fits(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    sink = await opened(database.uri)
    batch = [five_spans() for _ in range(10)]
    await sink.write(batch)
    asked: list[int] = []
    read = SqlAlchemyStore.batch_get_traces

    def counted(store: Any, trace_ids: list[str], **more: Any) -> Any:
        asked.append(len(trace_ids))
        return read(store, trace_ids, **more)

    monkeypatch.setattr(SqlAlchemyStore, "batch_get_traces", counted)
    one_by_one: list[str] = []
    get_trace = SqlAlchemyStore.get_trace

    def one(store: Any, trace_id: str, **more: Any) -> Any:
        one_by_one.append(trace_id)
        return get_trace(store, trace_id, **more)

    monkeypatch.setattr(SqlAlchemyStore, "get_trace", one)
    await sink.write(batch)
    assert (asked, one_by_one) == ([10], [])
    assert batch[0].trace_id is not None
    size = int(database.info(batch[0].trace_id).trace_metadata["mlflow.trace.sizeBytes"])
    monkeypatch.setattr(mlflow_read, "READ_BYTES_MAX", int(size * 6.5))
    await sink.write(batch)
    assert (asked[1:], len(one_by_one)) == ([6], 4)


@pytest.mark.parametrize(
    ("died_in", "database"),
    [
        *itertools.product(
            ["start_trace", "log_spans", "second log_spans", "execute"], ["sqlite", "postgres"]
        ),
        ("second log_spans", "mariadb"),
    ],
    indirect=["database"],
)
async def test_repeating_after_a_death_between_the_writes(
    database: Place,
    opened: OpenSink,
    tmp_path: Path,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
    died_in: str,
) -> None:
    """The state is that of a batch which was written in one go."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    batch = [
        five_spans(part=TracePart(experiment=f"e{index % 2}"), assessments=[feedback()])
        for index in range(4)
    ]
    shutil.copyfile(template, tmp_path / "clean.db")
    clean = await opened(f"sqlite:///{tmp_path}/clean.db", artifact_root="/artifacts")
    await clean.write(batch)

    sink = await opened(database.uri, artifact_root="/artifacts", bulk=False)
    owner: Any = sqlalchemy.Connection if died_in == "execute" else SqlAlchemyStore
    method = died_in.rsplit(maxsplit=1)[-1]
    original = getattr(owner, method)
    calls = {"start_trace": 2, "log_spans": 0, "second log_spans": 1, "execute": 0}[died_in]

    def dies(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        if died_in == "execute" and "execution_time_ms=:duration" not in str(args[0]):
            return original(self, *args, **options)
        calls -= 1
        if calls < 0:
            raise MlflowException("killed", error_code=TEMPORARILY_UNAVAILABLE)
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, dies)
        with pytest.raises(TransientError):
            await sink.write(batch)
    await sink.write(batch)
    hidden = ["db_payload_generation"]  # MLflow's count of writes
    ours = dump(database.uri, without=hidden)
    wanted = dump(f"sqlite:///{tmp_path}/clean.db", without=hidden)
    if database.kind == "postgres":
        ours, wanted = booleans(ours), booleans(wanted)
    # The experiments are numbered in order of creation, which is the same here.
    assert ours == wanted


def booleans(rows: dict[str, Any]) -> dict[str, Any]:
    """SQLite reads booleans back as numbers."""
    for row in rows["assessments"]:
        row["valid"], row["is_numeric_value"] = int(row["valid"]), int(row["is_numeric_value"])
    return rows


@pytest.mark.parametrize("order", ["children first", "root first", "one by one", "overlapping"])
async def test_parts_in_any_order_end_as_the_whole(
    place: Place, opened: OpenSink, order: str
) -> None:
    root, agent, first, second = ids(4)
    spans = [
        span(
            root,
            for_ms=50,
            name="request",
            attributes={"mlflow.spanInputs": b'{"q":1}', "mlflow.spanOutputs": b'"done"'},
        ),
        span(agent, root, at_ms=1, for_ms=30, span_type="AGENT"),
        llm(first, agent, 1000, 500, at_ms=2),
        llm(second, agent, 200, 100, at_ms=20, for_ms=80),
    ]
    parts = {
        "children first": [spans[2:], spans[:2]],
        "root first": [spans[:1], spans[1:]],
        "one by one": [[one] for one in reversed(spans)],
        "overlapping": [spans[1:3], spans[:3], spans[2:]],
    }[order]
    part = TracePart(
        experiment="parts", tags={"t": "1"}, metadata={"mlflow.trace.session": "s"},
        client_request_id="r",
    )  # fmt: skip
    sink = await opened(place.uri)
    whole = trace(spans, part=part)
    await sink.write([whole])
    wanted = place.trace(whole.trace_id or b"")

    pieces = [trace(parts[0], part=part, complete=False)]
    pieces += [late(pieces[0], spans=some, part=part) for some in parts[1:]]
    for piece in pieces:
        await sink.write([piece])
        found = place.trace(pieces[0].trace_id or b"")
        assert found is not None, "MLflow does not show what is there"
    assert comparable(found) == comparable(wanted)
    assert found.info.trace_metadata["mlflow.trace.tokenUsage"] == json.dumps(
        {"input_tokens": 1200, "output_tokens": 600, "total_tokens": 1800}
    )
    assert json.loads(found.info.trace_metadata["mlflow.trace.sizeStats"])["num_spans"] == 4

    before = dump(place.database)
    for piece in pieces:
        await sink.write([piece])
    assert dump(place.database) == before


def comparable(found: Any) -> dict[str, Any]:
    """A trace without its id and, for the server's rounding, a millisecond of its duration."""
    trace_id = found.info.trace_id
    plain = json.loads(json.dumps(found.to_dict(), default=str).replace(trace_id, "tr-"))
    plain["info"]["execution_duration_ms"] = round(plain["info"]["execution_duration_ms"] / 10)
    for key in ("mlflow.trace.sizeBytes", "mlflow.trace.sizeStats"):
        plain["info"]["trace_metadata"].pop(key)  # of stored spans, with what the store has added
    for one in plain["data"]["spans"]:
        one.pop("trace_id")
    return plain


@everywhere
async def test_a_trace_without_root_is_in_progress_until_the_root_comes(
    place: Place, opened: OpenSink
) -> None:
    root, child = ids(2)
    sink = await opened(place.uri)
    first = trace([span(child, root, at_ms=5, for_ms=10)], complete=False)
    await sink.write([first])
    info = place.info(first.trace_id or b"")
    assert info.state.value == "IN_PROGRESS"
    assert info.request_time == (START_NS + 5 * MS) // MS
    assert abs(info.execution_duration - 10) <= 1
    assert "mlflow.traceName" not in info.tags
    assert [s.name for s in place.trace(first.trace_id or b"").data.spans] == ["child"]

    failed = span(root, for_ms=40, name="the request", status=StatusCode.ERROR, status_message="no")
    await sink.write([late(first, spans=[failed], part=TracePart(experiment="of the root"))])
    info = place.info(first.trace_id or b"")
    assert info.state.value == "ERROR"
    assert info.request_time == START_NS // MS
    assert info.execution_duration == 40
    assert info.tags["mlflow.traceName"] == "the request"
    experiment = place.store.get_experiment(info.experiment_id)
    assert experiment.name == "of the root"
    rows = dump(place.database)["spans"]
    mine = [row for row in rows if row["trace_id"] == info.trace_id]
    assert {str(row["experiment_id"]) for row in mine} == {info.experiment_id}


async def test_late_spans_stay_in_the_roots_experiment(place: Place, opened: OpenSink) -> None:
    root, child = ids(2)
    sink = await opened(place.uri)
    mine = TracePart(experiment="root's", metadata={"mlflow.source.name": "front", "k": "1"})
    first = trace([span(root)], part=mine)
    await sink.write([first])
    theirs = TracePart(experiment="other", metadata={"mlflow.source.name": "back", "k": "2"})
    await sink.write([late(first, spans=[span(child, root)], part=theirs)])
    info = place.info(first.trace_id or b"")
    assert place.store.get_experiment(info.experiment_id).name == "root's"
    assert info.trace_metadata["mlflow.source.name"] == "front"
    assert info.trace_metadata["k"] == "2"


@everywhere
async def test_what_the_app_sets_late(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    first = five_spans(part=TracePart(tags={"a": "1", "b": "1"}, state=TraceState.OK))
    await sink.write([first])
    changed = TracePart(
        tags={"b": "2", "mlflow.traceName": "renamed"},
        metadata={"mlflow.trace.user": "u"},
        client_request_id="r-9",
        response_preview="short",
        state=TraceState.ERROR,
    )
    await sink.write([late(first, part=changed)])
    info = place.info(first.trace_id or b"")
    assert (info.tags["a"], info.tags["b"]) == ("1", "2")
    assert info.tags["mlflow.traceName"] == "renamed"
    assert info.trace_metadata["mlflow.trace.user"] == "u"
    assert (info.client_request_id, info.response_preview) == ("r-9", "short")
    assert info.state.value == "ERROR"
    assert len(place.trace(first.trace_id or b"").data.spans) == 5


async def test_the_state_of_the_app_stands_when_more_comes(place: Place, opened: OpenSink) -> None:
    root, child, other = ids(3)
    sink = await opened(place.uri)
    first = trace(
        [span(child, root)], part=TracePart(state=TraceState.OK, request_preview="mine"),
        complete=False,
    )  # fmt: skip
    await sink.write([first])
    await sink.write([late(first, spans=[span(root, status=StatusCode.ERROR)])])
    await sink.write([late(first, spans=[span(other, root)])])
    info = place.info(first.trace_id or b"")
    assert info.state.value == "OK"
    assert info.request_preview == "mine"


async def test_an_unended_span_is_completed_when_it_ends(place: Place, opened: OpenSink) -> None:
    root, child = ids(2)
    sink = await opened(place.uri)
    first = trace([span(root, for_ms=None), span(child, root)], complete=False)
    await sink.write([first])
    assert place.info(first.trace_id or b"").state.value == "IN_PROGRESS"
    await sink.write([late(first, spans=[span(root, for_ms=30)])])
    info = place.info(first.trace_id or b"")
    assert info.state.value == "OK"
    assert info.execution_duration == 30
    stored = place.trace(first.trace_id or b"").data.spans
    assert [s.end_time_ns for s in stored if s.parent_id is None] == [START_NS + 30 * MS]


@everywhere
async def test_two_parts_of_one_trace_in_one_batch(place: Place, opened: OpenSink) -> None:
    root, child = ids(2)
    sink = await opened(place.uri)
    first = trace([span(root)], complete=False)
    second = late(first, spans=[span(child, root)], assessments=[feedback(first.trace_id)])
    await sink.write([first, second, five_spans()])
    found = place.trace(first.trace_id or b"")
    assert len(found.data.spans) == 2
    assert len(found.info.assessments) == 1


async def test_what_comes_for_a_trace_that_is_deleted_meanwhile_is_a_new_one(
    place: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it was deleted a moment earlier, and as MLflow's own log_spans has it."""
    sink = await opened(place.uri)
    root, child = ids(2)
    first = trace([span(root)])
    name = f"tr-{(first.trace_id or b'').hex()}"
    await sink.write([first])
    infos: Any = sink._backend.infos  # type: ignore[union-attr]

    def delete_when_seen(trace_ids: list[str]) -> Any:
        found = infos(trace_ids)
        if name in found:
            place.store.delete_traces(found[name].experiment_id, trace_ids=[name])
        return found

    monkeypatch.setattr(sink._backend, "infos", delete_when_seen)
    rest = late(first, spans=[span(child, root)], assessments=[feedback(first.trace_id)])
    await sink.write([rest])
    found = place.trace(first.trace_id or b"")
    assert [one.name for one in found.data.spans] == ["child"]
    assert len(found.info.assessments) == 1


async def test_tags_for_a_trace_that_is_not_there(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    with pytest.raises(TraceNotFoundError, match="replayed"):
        await sink.write([trace([], part=TracePart(tags={"a": "b"}))])


@everywhere
async def test_ten_megabytes(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    text = json.dumps("x" * 10_000_000).encode()
    rows = json.dumps([{"id": i, "text": f"row {i}"} for i in range(50_000)]).encode()
    attributes = {"mlflow.spanInputs": text, "mlflow.spanOutputs": rows}
    one = trace([span(ids(1)[0], attributes=attributes)])
    await sink.write([one, five_spans()])
    await sink.write([one])
    (stored,) = place.trace(one.trace_id or b"").data.spans
    assert len(stored.inputs) == 10_000_000
    assert stored.outputs[-1] == {"id": 49_999, "text": "row 49999"}
