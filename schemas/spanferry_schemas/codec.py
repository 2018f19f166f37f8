"""Encoding, and a total decoder: any bytes at all give an event or a named rejection."""

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from spanferry_schemas.events import (
    Assessment,
    Attachment,
    Chunk,
    EncodedFragment,
    End,
    Event,
    Fragment,
    Span,
    TracePart,
)

__all__ = [
    "WIRE_VERSION",
    "RejectReason",
    "Rejection",
    "decode",
    "encode",
    "encode_fragment",
    "encode_large_span",
    "encode_span",
    "fragment_parts",
]

WIRE_VERSION: Final = 1
_VERSION_PREFIX: Final = bytes([WIRE_VERSION])

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_LARGE_BYTES: Final = 256 * 1024
_MARK_BYTES: Final = 16
_MARK_HEAD: Final = bytes([0xC4, _MARK_BYTES])
"""What msgpack has before bytes of that length."""
_KNOWN_TAGS: Final = frozenset({1, 2, 3, 4})


class RejectReason(StrEnum):
    """Why bytes are not an event; also the dead letter's reason and the metric's label."""

    EMPTY = "empty"
    UNKNOWN_VERSION = "unknown_version"
    MALFORMED = "malformed"
    UNKNOWN_EVENT = "unknown_event"
    INVALID = "invalid"


class Rejection(Struct, frozen=True):
    """Bytes that are not an event of this wire, and why, for a person to read."""

    reason: RejectReason
    message: str


encode_span: Final[Callable[[Span], bytes]] = _encoder.encode
"""One span as msgpack, to be put into a fragment later with `encode_fragment`."""


def encode_large_span(span: Span) -> bytes:
    """The same bytes as `encode_span` gives, without the interpreter's lock while large attributes are
    copied."""
    large = {key: value for key, value in span.attributes.items() if len(value) >= _LARGE_BYTES}
    if not large:
        return encode_span(span)
    marks = {key: os.urandom(_MARK_BYTES) for key in large}
    rest = encode_span(replace(span, attributes={**span.attributes, **marks}))
    parts: list[bytes] = []
    for key, mark in marks.items():  # in their order
        head, _, rest = rest.partition(_MARK_HEAD + mark)
        parts += head, b"\xc6", len(large[key]).to_bytes(4, "big"), large[key]
    return b"".join([*parts, rest])  # which lets go of the lock above 1 MiB


def fragment_parts(
    trace_id: bytes, span: bytes, trace: TracePart | None = None, end: End | None = None
) -> tuple[bytes, bytes, bytes]:
    """What `encode_fragment` gives of one span, in three parts, none of which is a copy of a large one."""
    mark = os.urandom(_MARK_BYTES)
    head, _, tail = encode_fragment(trace_id, [mark], trace, end).partition(mark)
    return head, span, tail


def encode_fragment(
    trace_id: bytes,
    spans: list[bytes],
    trace: TracePart | None = None,
    end: End | None = None,
    attachments: list[Attachment] | None = None,
) -> bytes:
    """A fragment's record value from spans already encoded; the same bytes as `encode` gives."""
    fragment = EncodedFragment(
        trace_id, [Raw(span) for span in spans], trace, end, attachments or []
    )
    return _VERSION_PREFIX + _encoder.encode(fragment)


def encode(event: Event) -> bytes:
    """An event as a record value: the version byte, then msgpack."""
    return _VERSION_PREFIX + _encoder.encode(event)


def decode(value: bytes | None) -> Event | Rejection:
    """A record value as an event. Never raises, whatever the bytes are."""
    if not value:
        return Rejection(RejectReason.EMPTY, "the record has no value")
    if value[0] != WIRE_VERSION:
        return Rejection(
            RejectReason.UNKNOWN_VERSION,
            f"version byte {value[0]}, this worker reads {WIRE_VERSION}; update the worker",
        )
    body = memoryview(value)[1:]
    try:
        event = _decoder.decode(body)
    except msgspec.ValidationError as error:
        return _explain(body, str(error))
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        return Rejection(RejectReason.MALFORMED, f"not msgpack: {error}")
    return _check(event)


def _explain(body: memoryview, message: str) -> Rejection:
    """Tell an event of a later version from a broken one of ours."""
    try:
        head = msgspec.msgpack.decode(body, type=list[Raw])
        tag = msgspec.msgpack.decode(head[0]) if head else None
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, MemoryError):
        return Rejection(RejectReason.INVALID, message)
    if isinstance(tag, int) and tag not in _KNOWN_TAGS:
        return Rejection(
            RejectReason.UNKNOWN_EVENT,
            f"event tag {tag} is not known to this worker; update the worker",
        )
    return Rejection(RejectReason.INVALID, message)


def _check(event: Event) -> Event | Rejection:
    """What the types alone cannot say."""
    match event:
        case Chunk() if event.index >= event.count:
            return Rejection(RejectReason.INVALID, f"chunk {event.index} of only {event.count}")
        case Chunk() if len(event.data) > event.total_bytes:
            return Rejection(RejectReason.INVALID, "a chunk longer than the whole it belongs to")
        case Assessment() if event.trace_id is None and not event.client_request_id:
            return Rejection(
                RejectReason.INVALID, "an assessment needs a trace_id or a client_request_id"
            )
        case Fragment() if (
            not event.spans and event.trace is None and event.end is None and not event.attachments
        ):
            return Rejection(RejectReason.INVALID, "a fragment with nothing in it")
        case _:
            return event
