"""From a parcel to Kafka records: fragments within the record limit, giant spans in chunks. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from spanferry.parcel import Parcel, encoded
from spanferry_schemas import (
    RecordFlag,
    RecordKind,
    RecordMeta,
    TracePart,
    assessment_key,
    encode,
    encode_fragment,
    fragment_parts,
    session_hash,
    split_value,
    write_meta,
)
from spanferry_schemas.limits import CHUNK_GROUP_ID_BYTES

__all__ = ["Record", "header_of", "records_of", "recut"]

_FRAGMENT_ENVELOPE_BYTES = 128
"""Upper bound of what a fragment adds around its spans, apart from the trace part."""

# As plain integers: a flag's own `|` takes longer than all the rest that is done with it.
_END = int(RecordFlag.END)
_ERROR = int(RecordFlag.ERROR)
_TRACE_PART = int(RecordFlag.TRACE_PART)

Chance = Callable[[int], bytes]
"""Gives so many random bytes."""


class Record(Struct, array_like=True, gc=False):
    """A record without its producer id and sequence, which it gets when it enters a batch."""

    key: bytes
    value: bytes
    kind: RecordKind
    flags: int = 0
    spans: int = 0
    root_duration_ns: int = 0
    session_hash: int = 0


def header_of(record: Record, producer_id: bytes, sequence: int) -> tuple[str, bytes]:
    """The record's header, as aiokafka takes it."""
    return write_meta(
        RecordMeta(
            producer_id=producer_id,
            sequence=sequence,
            kind=record.kind,
            flags=record.flags,
            spans=record.spans,
            size=len(record.value),
            root_duration_ns=record.root_duration_ns,
            session_hash=record.session_hash,
        )
    )


def records_of(
    parcel: Parcel, *, environment: Mapping[str, str], record_bytes_max: int, chance: Chance
) -> Iterator[Record]:
    """The parcel's records, in order, each at most `record_bytes_max` bytes.

    Attachments come first, each in a record of its own: they are there when the trace is complete.
    `environment` goes under the metadata of traces that this process owns. Raises ValueError where
    a span or an attachment is above the wire's ceiling of 256 MiB.
    """
    if parcel.assessment is not None:
        yield from _assessment(parcel, record_bytes_max, chance)
        return
    trace = parcel.trace if parcel.remote else _with_environment(parcel.trace, environment)
    hashed = session_hash(parcel.session) if parcel.session else 0
    if parcel.attachments:
        yield from _attachments(parcel, hashed, record_bytes_max, chance)
        if not parcel.spans and trace is None and parcel.end is None:
            return
    common = _ERROR if parcel.error else 0
    for spans, last in _groups(encoded(parcel.spans), record_bytes_max, trace):
        end = parcel.end if last else None
        flags = common
        if last and trace is not None:
            flags |= _TRACE_PART
        if end is not None and not end.remote_parent:
            flags |= _END
        part = trace if last else None
        giant = len(spans) == 1 and len(spans[0]) > record_bytes_max
        whole = Record(
            key=parcel.trace_id,
            value=b"" if giant else encode_fragment(parcel.trace_id, spans, part, end),
            kind=RecordKind.FRAGMENT,
            flags=flags,
            spans=len(spans),
            root_duration_ns=parcel.root_duration_ns if last else 0,
            session_hash=hashed,
        )
        if giant:
            parts = fragment_parts(parcel.trace_id, spans[0], part, end)
            yield from _chunks(whole, parts, record_bytes_max, chance)
        else:
            yield from recut(whole, record_bytes_max, chance)


def recut(record: Record, record_bytes_max: int, chance: Chance) -> Iterator[Record]:
    """The record itself, or its chunks where it is above the limit."""
    if len(record.value) <= record_bytes_max:
        yield record
    else:
        yield from _chunks(record, record.value, record_bytes_max, chance)


def _chunks(
    record: Record, whole: bytes | Sequence[bytes], record_bytes_max: int, chance: Chance
) -> Iterator[Record]:
    group_id = chance(CHUNK_GROUP_ID_BYTES)
    for value in split_value(
        whole,
        trace_id=record.key,
        group_id=group_id,
        record_bytes_max=record_bytes_max,
    ):
        yield msgspec.structs.replace(record, value=value, kind=RecordKind.CHUNK)


def _assessment(parcel: Parcel, record_bytes_max: int, chance: Chance) -> Iterator[Record]:
    assessment = parcel.assessment
    assert assessment is not None
    key = assessment.trace_id or assessment_key(assessment.client_request_id or "")
    whole = Record(key=key, value=encode(assessment), kind=RecordKind.ASSESSMENT)
    yield from recut(whole, record_bytes_max, chance)


def _attachments(
    parcel: Parcel, hashed: int, record_bytes_max: int, chance: Chance
) -> Iterator[Record]:
    for attachment in parcel.attachments:
        whole = Record(
            key=parcel.trace_id,
            value=encode_fragment(parcel.trace_id, [], attachments=[attachment]),
            kind=RecordKind.FRAGMENT,
            session_hash=hashed,
        )
        yield from recut(whole, record_bytes_max, chance)


def _with_environment(trace: TracePart | None, environment: Mapping[str, str]) -> TracePart | None:
    if trace is None or not environment:
        return trace
    return msgspec.structs.replace(trace, metadata={**environment, **trace.metadata})


def _groups(
    spans: list[bytes], record_bytes_max: int, trace: TracePart | None
) -> Iterator[tuple[list[bytes], bool]]:
    """Spans in groups that fit a record, the last one with room for the trace's own part."""
    room = record_bytes_max - _FRAGMENT_ENVELOPE_BYTES
    trace_bytes = len(msgspec.msgpack.encode(trace)) if trace is not None else 0
    if sum(map(len, spans)) + trace_bytes <= room:
        yield spans, True
        return
    group: list[bytes] = []
    size = 0
    for span in spans:
        if group and size + len(span) > room:
            yield group, False
            group, size = [], 0
        group.append(span)
        size += len(span)
    if group and size + trace_bytes > room:
        yield group, False
        group = []
    yield group, True
