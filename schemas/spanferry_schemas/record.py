"""The Kafka record around a value: its key, its header, and what the header lets one read cheaply."""

from collections.abc import Iterable
from enum import IntEnum, IntFlag
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from spanferry_schemas.events import Count, Nanoseconds
from spanferry_schemas.limits import PRODUCER_ID_BYTES

__all__ = [
    "HEADER",
    "SAMPLED_UPSTREAM",
    "TOPIC",
    "RecordFlag",
    "RecordKind",
    "RecordMeta",
    "assessment_key",
    "read_meta",
    "session_hash",
    "write_meta",
]

TOPIC: Final = "spanferry.traces"
"""The default topic. The key of every record is the trace's 16 bytes, so that one partition has it
whole; every producer uses Kafka's default partitioner (murmur2 of the key)."""

HEADER: Final = "spanferry"
"""The one header's name. Its value is a RecordMeta in msgpack, laid out as an array."""

SAMPLED_UPSTREAM: Final = "spanferry.sampling.upstream"
"""Trace metadata that says what was chosen before the worker: `p:0.1` (the app's sampling ratio), or
OpenTelemetry's `th:…;rv:…`. The worker multiplies it into the trace's weight and takes it away."""


class RecordKind(IntEnum):
    """Which event the value holds; equal to the event's tag."""

    FRAGMENT = 1
    CHUNK = 2
    ASSESSMENT = 3


class RecordFlag(IntFlag):
    """Facts that a sampling rule may want before the payload is decoded."""

    NONE = 0
    END = 1
    """An End without remote parent is in the value."""
    ERROR = 2
    """A span in the value has status ERROR."""
    TRACE_PART = 4
    """The trace's own part is in the value."""


class RecordMeta(Struct, array_like=True, frozen=True, gc=False):
    """Header of every record; append-only. All counts are of this record, not of the trace.

    `sequence` counts the records of one producer in one partition from 0: a gap is a loss, a repeat
    a resend. `size` is the value's length in bytes before Kafka compresses it; `root_duration_ns` is 0 where
    the root is not in the value; `session_hash` is 0 where no session is known.
    """

    producer_id: Annotated[bytes, Meta(min_length=PRODUCER_ID_BYTES, max_length=PRODUCER_ID_BYTES)]
    sequence: Nanoseconds
    kind: RecordKind
    flags: Annotated[int, Meta(ge=0)] = 0
    spans: Count = 0
    size: Count = 0
    root_duration_ns: Nanoseconds = 0
    session_hash: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RecordMeta)


def write_meta(meta: RecordMeta) -> tuple[str, bytes]:
    """The header as aiokafka takes it."""
    return (HEADER, _encoder.encode(meta))


def read_meta(headers: Iterable[tuple[str, bytes | None]]) -> RecordMeta | None:
    """The header's content, or None where it is missing or unreadable: a record is valid without."""
    for name, value in headers:
        if name == HEADER and value is not None:
            try:
                return _decoder.decode(value)
            except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
                return None
    return None


def session_hash(session: str) -> int:
    """63 bits of a session id, never 0: equal in every process and language (blake2b, 8 bytes)."""
    digest = blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) or 1


def assessment_key(client_request_id: str) -> bytes:
    """The record key of an assessment whose trace id the app does not know: 16 bytes of blake2b."""
    return blake2b(client_request_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
