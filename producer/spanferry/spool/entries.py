"""Entries of the spool: one parcel's records as bytes, framed, with a checksum. No I/O of its own.

A frame is MAGIC, the payload's length and its CRC-32 (both little-endian, 4 bytes), and the payload:
an `Entry` in msgpack. A reader that meets anything else looks for the next frame that is whole.
"""

import zlib
from collections.abc import Iterator
from struct import Struct as Layout
from typing import BinaryIO, Final, TypeAlias

import msgspec
from msgspec import Struct

from spanferry.records import Record
from spanferry_schemas.limits import VALUE_BYTES_MAX

__all__ = ["ENTRY_BYTES_MAX", "FRAME_BYTES", "Damage", "Entry", "Origin", "SpooledRecord", "Stored",
           "decode", "encode", "frame", "frames"]  # fmt: skip

MAGIC: Final = b"\xc1SFE"
"""Begins with the one byte that msgpack never writes."""

_HEAD: Final = Layout("<4sII")

FRAME_BYTES: Final = _HEAD.size
"""What a frame adds to its payload."""

ENTRY_BYTES_MAX: Final = 2 * VALUE_BYTES_MAX
"""Ceiling of a payload; a claim above it is damage."""

_BLOCK_BYTES: Final = 256 * 1024


class Origin(Struct, array_like=True, frozen=True, gc=False):
    """Under which name a record may have reached Kafka already."""

    producer_id: bytes
    partition: int
    sequence: int


class SpooledRecord(Struct, array_like=True, frozen=True, gc=False):
    """A record, and its origin where it has been in a batch whose fate is not known."""

    record: Record
    origin: Origin | None = None


class Entry(Struct, array_like=True, frozen=True, gc=False):
    """What is settled at once: the records of one parcel that Kafka has not acknowledged."""

    records: list[SpooledRecord]
    ends_trace: bool = False
    """Whether the end of a trace's local root is in it."""

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return sum(len(one.record.value) for one in self.records)


class Stored(Struct, frozen=True, gc=False):
    """A whole frame: where it begins and what is in it."""

    offset: int
    payload: bytes


class Damage(Struct, frozen=True, gc=False):
    """Bytes that are no whole frame. `at_end`: nothing follows, as after a death in mid-write."""

    offset: int
    length: int
    at_end: bool


Found: TypeAlias = Stored | Damage

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The payload of a frame."""
    return _encoder.encode(entry)


def decode(payload: bytes) -> Entry:
    """The reverse. Raises msgspec.MsgspecError where another version wrote something else."""
    return _decoder.decode(payload)


def frame(payload: bytes) -> bytes:
    """The head that goes before the payload."""
    return _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload))


def frames(file: BinaryIO, start: int, end: int) -> Iterator[Found]:
    """Every frame between two offsets, in order, and what lies between them. Raises OSError.

    One frame is in memory at a time.
    """
    offset = start
    damaged_from: int | None = None
    while offset < end:
        payload = _payload_at(file, offset, end)
        if payload is not None:
            if damaged_from is not None:
                yield Damage(damaged_from, offset - damaged_from, at_end=False)
                damaged_from = None
            yield Stored(offset, payload)
            offset += FRAME_BYTES + len(payload)
            continue
        if damaged_from is None:
            damaged_from = offset
        offset = _next_magic(file, offset + 1, end)
    if damaged_from is not None:
        yield Damage(damaged_from, end - damaged_from, at_end=True)


def _payload_at(file: BinaryIO, offset: int, end: int) -> bytes | None:
    """The payload of the frame that begins here; None where none does, or it is not whole."""
    file.seek(offset)
    head = file.read(FRAME_BYTES)
    if len(head) < FRAME_BYTES:
        return None
    magic, length, checksum = _HEAD.unpack(head)
    if magic != MAGIC or length > min(ENTRY_BYTES_MAX, end - offset - FRAME_BYTES):
        return None
    payload = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload) == checksum else None


def _next_magic(file: BinaryIO, offset: int, end: int) -> int:
    """Where MAGIC stands next, or `end`."""
    while offset < end:
        file.seek(offset)
        block = file.read(min(_BLOCK_BYTES, end - offset))
        if not block:
            return end
        found = block.find(MAGIC)
        if found >= 0:
            return offset + found
        offset += max(len(block) - len(MAGIC) + 1, 1)
    return end
