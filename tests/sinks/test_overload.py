"""Traces whose payloads a worker had to cut: what a replay makes of them, and of whole ones."""

from typing import Any

import msgspec
import pytest

from spanferry_schemas import Span, TracePart
from spanferry_worker.stages.giants import OVERLOAD_KEY, OVERLOAD_MARK, marked
from spanferry_worker.stages.skeleton import skeleton
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.stores import dump, ids, span, trace

pytestmark = pytest.mark.mlflow

NAMES = ids(4)
WHOLE = b'"' + b"w" * 5_000 + b'"'


def a_trace(count: int, **fields: Any) -> AssembledTrace:
    spans = [
        span(name, None if index == 0 else NAMES[0], attributes={"mlflow.spanInputs": WHOLE})
        for index, name in enumerate(NAMES[:count])
    ]
    return trace(spans, part=TracePart(metadata={"mine": "1"}), **fields)


def cut(whole: AssembledTrace) -> AssembledTrace:
    spans: list[Span] = [
        skeleton(each, attribute_bytes_max=100, events_bytes_max=0) for each in whole.spans
    ]
    return msgspec.structs.replace(whole, spans=spans, trace=marked(whole.trace, spans))


def mark_of(rows: dict[str, Any]) -> list[str]:
    return [str(row) for row in rows["trace_request_metadata"] if OVERLOAD_KEY in str(row)]


async def test_records_that_come_again_cut_leave_a_whole_trace_whole_and_unmarked(
    database: Place, opened: OpenSink
) -> None:
    sink = await opened(database.uri)
    whole = a_trace(3)
    await sink.write([whole])
    before = dump(database.database)
    await sink.write([cut(whole)])
    assert dump(database.database) == before
    assert mark_of(before) == []


async def test_records_that_come_again_whole_make_a_cut_trace_whole(
    database: Place, opened: OpenSink
) -> None:
    sink = await opened(database.uri)
    whole = a_trace(3)
    await sink.write([cut(whole)])
    before = dump(database.database)
    assert len(mark_of(before)) == 1
    assert OVERLOAD_MARK in mark_of(before)[0]
    await sink.write([whole])
    after = dump(database.database)
    assert len([row for row in after["spans"] if "w" * 5_000 in str(row)]) == 3
    assert mark_of(after) == mark_of(before), "MLflow takes no metadata away: it says what was"
    await sink.write([whole])
    assert dump(database.database) == after


async def test_cut_spans_that_are_added_to_a_trace_mark_it(
    database: Place, opened: OpenSink
) -> None:
    sink = await opened(database.uri)
    first = a_trace(2, complete=False)
    rest = msgspec.structs.replace(a_trace(4), trace_id=first.trace_id)
    await sink.write([first])
    assert mark_of(dump(database.database)) == []
    await sink.write([cut(rest)])
    rows = dump(database.database)
    assert len(mark_of(rows)) == 1
    whole = [row for row in rows["spans"] if "w" * 5_000 in str(row)]
    assert (len(rows["spans"]), len(whole)) == (4, 2), "what was there whole stays so"
