"""Traces, fragments and records for the worker's tests."""

import itertools
import os
import uuid
from collections.abc import Sequence

from spanferry_schemas import (
    Assessment,
    AssessmentKind,
    Attachment,
    End,
    Event,
    Fragment,
    RecordKind,
    RecordMeta,
    Span,
    StatusCode,
    TracePart,
    encode,
    split_value,
    write_meta,
)
from spanferry_worker.stages.decode import Decoded
from spanferry_worker.stages.trace import AssembledTrace, FinishReason, Position
from spanferry_worker.testing import MemoryBroker, MemoryRecord

T0_MS = 1_700_000_000_000
PRODUCER = b"producer"
_sequences = itertools.count()


def number(value: int, size: int = 16) -> bytes:
    """An id that can be told from others at a glance."""
    return value.to_bytes(size, "big")


def span(span_id: int = 1, *, parent: int | None = None, payload: int = 10, **fields) -> Span:
    values = {
        "span_id": number(span_id, 8),
        "parent_id": None if parent is None else number(parent, 8),
        "name": f"span-{span_id}",
        "span_type": "CHAIN",
        "start_ns": T0_MS * 10**6,
        "end_ns": T0_MS * 10**6 + 5_000_000,
        "status": StatusCode.OK,
        "attributes": {"mlflow.spanInputs": b'"' + b"x" * payload + b'"'},
    }
    return Span(**(values | fields))


def fragment(
    trace_id: int = 1,
    spans: Sequence[Span] = (),
    *,
    end: End | None = None,
    part: TracePart | None = None,
    attachments: Sequence[Attachment] = (),
) -> Fragment:
    return Fragment(number(trace_id), list(spans), part, end, list(attachments))


def attachment(name: int = 1, size: int = 20) -> Attachment:
    return Attachment(str(uuid.UUID(int=name)), "image/png", b"p" * size)


def whole(trace_id: int = 1, spans: int = 3, *, payload: int = 10) -> Fragment:
    """A trace in one fragment, with its end."""
    children = [span(i + 1, parent=1 if i else None, payload=payload) for i in range(spans)]
    return fragment(trace_id, children, end=End(spans), part=TracePart(experiment="shop"))


def feedback(name: int = 1, trace_id: int | None = 1, request: str | None = None) -> Assessment:
    return Assessment(
        assessment_id=f"a-{name}",
        kind=AssessmentKind.FEEDBACK,
        name="good",
        value=b"true",
        created_ns=T0_MS * 10**6,
        trace_id=None if trace_id is None else number(trace_id),
        client_request_id=request,
    )


def position(offset: int, partition: int = 0) -> Position:
    return Position("spanferry.traces", partition, offset)


def decoded(event: Fragment | Assessment, offset: int = 0, origin: bytes | None = None) -> Decoded:
    return Decoded(event, [position(offset)], len(encode(event)), origin)


def header(sequence: int | None = None, producer: bytes = PRODUCER) -> tuple[str, bytes]:
    if sequence is None:
        sequence = next(_sequences)
    return write_meta(RecordMeta(producer, sequence, RecordKind.FRAGMENT))


def record(value: bytes | Event | None, offset: int = 0, **fields) -> MemoryRecord:
    if value is not None and not isinstance(value, bytes):
        value = encode(value)
    values = {
        "topic": "spanferry.traces",
        "partition": 0,
        "offset": offset,
        "timestamp": T0_MS,
        "key": number(1),
        "value": value,
        "headers": (header(),),
    }
    return MemoryRecord(**(values | fields))


def assembled(trace_id: int | None = 1, size: int = 100, **fields) -> AssembledTrace:
    values = {
        "trace_id": None if trace_id is None else number(trace_id),
        "trace": TracePart(),
        "spans": [span()],
        "assessments": [],
        "reason": FinishReason.COMPLETE,
        "complete": True,
        "size": size,
        "positions": [position(0)],
    }
    return AssembledTrace(**(values | fields))


def send(broker: MemoryBroker, event: Event, *, record_bytes_max: int = 900_000, **fields) -> int:
    """Produce an event as an app does, in chunks if need be; how many records it took."""
    trace_id = event.trace_id
    assert trace_id is not None
    cut = split_value(
        encode(event),
        trace_id=trace_id,
        group_id=os.urandom(8),
        record_bytes_max=record_bytes_max,
    )
    values = list(cut)
    for value in values:
        broker.produce(value, key=trace_id, headers=[header()], **fields)
    return len(values)
