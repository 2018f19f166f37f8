"""From parcels to records: every span arrives, every record fits."""

import os
import uuid

from hypothesis import given
from hypothesis import strategies as st

from spanferry.parcel import Parcel
from spanferry.records import Record, header_of, records_of
from spanferry_schemas import (
    Assessment,
    AssessmentKind,
    Attachment,
    Chunk,
    End,
    Fragment,
    RecordFlag,
    RecordKind,
    Span,
    TracePart,
    assessment_key,
    decode,
    encode_span,
    join_chunks,
    read_meta,
    session_hash,
)
from spanferry_schemas.limits import RECORD_BYTES_FLOOR

TRACE_ID = b"t" * 16


def a_span(number: int, size: int) -> Span:
    return Span(number.to_bytes(8, "big"), None, "n", "LLM", 1, 2, attributes={"a": b"1" * size})


def a_parcel(spans: list[Span], **others: object) -> Parcel:
    encoded = [encode_span(span) for span in spans]
    return Parcel(trace_id=TRACE_ID, size=sum(map(len, encoded)), spans=encoded, **others)


def cut(parcel: Parcel, limit: int = RECORD_BYTES_FLOOR, **environment: str) -> list[Record]:
    return list(
        records_of(parcel, environment=environment, record_bytes_max=limit, chance=os.urandom)
    )


def fragments(records: list[Record]) -> list[Fragment]:
    """As the worker sees them: chunks put together."""
    groups: dict[bytes, list[Chunk]] = {}
    whole: list[Fragment] = []
    for record in records:
        event = decode(record.value)
        if isinstance(event, Chunk):
            groups.setdefault(event.group_id, []).append(event)
            value = join_chunks(groups[event.group_id])
            event = decode(value) if value else None
        if event is not None:
            assert isinstance(event, Fragment)
            whole.append(event)
    return whole


def test_a_small_trace_is_one_record():
    part = TracePart(tags={"t": "1"}, metadata={"mlflow.user": "me"})
    parcel = a_parcel(
        [a_span(1, 10), a_span(2, 10)],
        trace=part,
        end=End(2),
        error=True,
        root_duration_ns=77,
        session="s",
    )
    [record] = cut(parcel, **{"mlflow.user": "root", "mlflow.source.type": "LOCAL"})
    [fragment] = fragments([record])
    assert fragment.spans == [a_span(1, 10), a_span(2, 10)]
    assert fragment.end == End(2)
    assert fragment.trace is not None
    assert fragment.trace.metadata == {"mlflow.user": "me", "mlflow.source.type": "LOCAL"}
    meta = read_meta([header_of(record, b"producer", 9)])
    assert meta is not None
    assert (meta.sequence, meta.kind, meta.spans) == (9, RecordKind.FRAGMENT, 2)
    assert meta.flags == RecordFlag.END | RecordFlag.ERROR | RecordFlag.TRACE_PART
    assert meta.size == len(record.value)
    assert meta.root_duration_ns == 77
    assert meta.session_hash == session_hash("s")


def test_a_part_under_a_remote_root_does_not_end_the_trace():
    [record] = cut(a_parcel([a_span(1, 1)], end=End(1, 0, remote_parent=True)))
    assert record.flags & RecordFlag.END == 0


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=12), st.integers(0, 12_000))
def test_every_span_arrives_once_and_every_record_fits(sizes, tag_size):
    spans = [a_span(number, size) for number, size in enumerate(sizes)]
    part = TracePart(tags={"big": "x" * tag_size})
    records = cut(a_parcel(spans, trace=part, end=End(len(spans))))
    assert all(len(record.value) <= RECORD_BYTES_FLOOR for record in records)
    assert all(record.key == TRACE_ID for record in records)
    whole = fragments(records)
    assert [span for fragment in whole for span in fragment.spans] == spans
    assert [fragment.trace for fragment in whole if fragment.trace] == [part]
    assert whole[-1].end == End(len(spans))
    assert sum(1 for fragment in whole if fragment.end) == 1


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=4), st.booleans())
def test_attachments_arrive_before_the_end_and_every_record_fits(sizes, alone):
    attachments = [
        Attachment(str(uuid.UUID(int=number)), "image/png", b"p" * size)
        for number, size in enumerate(sizes)
    ]
    spans = [] if alone else [a_span(1, 10_000)]
    end = None if alone else End(1)
    records = cut(a_parcel(spans, attachments=attachments, end=end))
    assert all(len(record.value) <= RECORD_BYTES_FLOOR for record in records)
    assert all(record.key == TRACE_ID for record in records)
    whole = fragments(records)
    assert [one for fragment in whole for one in fragment.attachments] == attachments
    assert not any(fragment.spans or fragment.end for fragment in whole[: len(sizes)])
    rest = whole[len(sizes) :]
    assert [span for fragment in rest for span in fragment.spans] == spans
    assert [fragment.end for fragment in rest if fragment.end] == ([] if alone else [end])


def test_an_assessment_is_keyed_by_its_trace_or_its_request():
    by_trace = Assessment("a-1", AssessmentKind.FEEDBACK, "n", b"1", 1, trace_id=TRACE_ID)
    [record] = cut(Parcel(trace_id=TRACE_ID, size=1, assessment=by_trace))
    assert (record.key, record.kind) == (TRACE_ID, RecordKind.ASSESSMENT)
    by_request = Assessment("a-2", AssessmentKind.FEEDBACK, "n", b"1", 1, client_request_id="r")
    [record] = cut(Parcel(trace_id=b"", size=1, assessment=by_request))
    assert record.key == assessment_key("r")
    assert decode(record.value) == by_request
