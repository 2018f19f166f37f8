"""Helpers: whole tables of a store as plain values, and traces by hand."""

import itertools
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from spanferry_schemas import Assessment, AssessmentKind, Span, StatusCode, TracePart
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

TABLES = (
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "assessments",
    "entity_associations",
)
START_NS = 1_760_000_000_123_456_789
MS = 1_000_000
_numbers = itertools.count(1)


def dump(uri: str, *, without: Iterable[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Every row of MLflow's trace tables, sorted."""
    engine = sa.create_engine(uri)
    hidden = set(without)
    rows: dict[str, list[dict[str, Any]]] = {}
    with engine.connect() as connection:
        for table in TABLES:
            found = connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()
            plain = [{k: v for k, v in row.items() if k not in hidden} for row in found]
            rows[table] = sorted(plain, key=_position)
    engine.dispose()
    return rows


def _position(row: dict[str, Any]) -> tuple[str, ...]:
    """By what a row is of, so that two stores line up where their values differ."""
    names = ("request_id", "trace_id", "key", "span_id", "name")
    return (*(str(row.get(name)) for name in names), repr(row))


def ids(count: int) -> list[bytes]:
    return [secrets.token_bytes(8) for _ in range(count)]


def span(
    span_id: bytes,
    parent_id: bytes | None = None,
    *,
    at_ms: float = 0,
    for_ms: float | None = 10,
    **fields: Any,
) -> Span:
    start = START_NS + int(at_ms * MS)
    return Span(
        span_id=span_id,
        parent_id=parent_id,
        name=fields.pop("name", "root" if parent_id is None else "child"),
        span_type=fields.pop("span_type", "CHAIN"),
        start_ns=start,
        end_ns=0 if for_ms is None else start + int(for_ms * MS),
        status=fields.pop("status", StatusCode.OK),
        **fields,
    )


def trace(
    spans: list[Span],
    *,
    trace_id: bytes | None = None,
    part: TracePart | None = None,
    assessments: list[Assessment] | None = None,
    complete: bool = True,
) -> AssembledTrace:
    return AssembledTrace(
        trace_id=trace_id or secrets.token_bytes(16),
        trace=part or TracePart(),
        spans=spans,
        assessments=assessments or [],
        reason=FinishReason.COMPLETE if complete else FinishReason.AGE,
        complete=complete,
        size=100,
        positions=[],
    )


def late(of: AssembledTrace, **fields: Any) -> AssembledTrace:
    made = trace(fields.pop("spans", []), trace_id=of.trace_id, **fields)
    return msgspec.structs.replace(made, reason=FinishReason.LATE)


def five_spans(**fields: Any) -> AssembledTrace:
    """A trace of about 10 KB."""
    root, retrieve, tool, chain, model = ids(5)
    text = ("lorem ipsum dolor sit amet " * 80)[:2000]
    value = b'{"text":"' + text.encode() + b'"}'
    attributes = {"mlflow.spanInputs": value, "mlflow.spanOutputs": b'"' + text.encode() + b'"'}
    usage = b'{"input_tokens":10,"output_tokens":5,"total_tokens":15}'
    return trace(
        [
            span(retrieve, root, span_type="RETRIEVER", attributes=attributes),
            span(tool, root, span_type="TOOL", attributes=attributes),
            span(
                model, chain, span_type="CHAT_MODEL", attributes={"mlflow.chat.tokenUsage": usage}
            ),
            span(chain, root, attributes={"mlflow.spanInputs": b"1"}),
            span(root, name="agent", span_type="AGENT", for_ms=12.7, attributes=attributes),
        ],
        **fields,
    )


def feedback(trace_id: bytes | None = None, **fields: Any) -> Assessment:
    return Assessment(
        assessment_id=fields.pop("assessment_id", f"a-{secrets.token_hex(8)}"),
        kind=fields.pop("kind", AssessmentKind.FEEDBACK),
        name=fields.pop("name", "good"),
        value=fields.pop("value", b"true"),
        created_ns=START_NS,
        trace_id=trace_id,
        **fields,
    )
