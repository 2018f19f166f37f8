"""Copies of dead letters, to be sent again: their content unchanged, under numbers of their own.

What a worker knows a record by must be new. A repeated number of the old producer would look like a
resend, a gap between two of them like a loss; and a worker remembers the pieces of which it has put a
value together and passes over those that come again.
"""

from collections import defaultdict
from hashlib import blake2b
from typing import Final, NamedTuple

from msgspec.structs import replace

from spanferry_schemas import HEADER, WIRE_VERSION, read_meta, write_meta
from spanferry_schemas.limits import CHUNK_GROUP_ID_BYTES, CHUNK_NESTING_MAX, TRACE_ID_BYTES
from spanferry_worker.stages.dead_letter import ATTEMPTS, Letter

__all__ = ["Copier", "Copy", "renumbered"]

_CHUNK_TAG: Final = 2
_CHUNK_FIELDS: Final = 7
_INT_BYTES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_BIN_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}


class Copy(NamedTuple):
    """A record to be sent."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Copier:
    """One replay as a producer: its id is `producer_id`, 8 random bytes.

    Pieces of one value get the same new group id in whatever replay they are sent, as long as `salt`
    is the same; to send once more what a worker may remember, it must be another one.
    """

    def __init__(self, producer_id: bytes, salt: bytes = b"") -> None:
        self._producer_id = producer_id
        self._salt = salt
        self._sequences: defaultdict[tuple[str, int], int] = defaultdict(int)

    def copy(self, letter: Letter, topic: str, partition: int) -> Copy:
        """The record to be sent to this partition next."""
        headers = letter.headers
        meta = read_meta(headers)
        if meta is not None:
            sequence = self._sequences[topic, partition]
            self._sequences[topic, partition] += 1
            number = write_meta(replace(meta, producer_id=self._producer_id, sequence=sequence))
            headers = [number if name == HEADER else (name, value) for name, value in headers]
        attempts = str(letter.attempts).encode()
        value = letter.value
        if value is not None:
            value = renumbered(value, self._salt + attempts)
        elif letter.key is None:
            value = b""  # Kafka's clients refuse a record without key and value
        return Copy(letter.key, value, [*headers, (ATTEMPTS, attempts)])


def renumbered(value: bytes, salt: bytes) -> bytes:
    """A chunk with another group id, and with another one in the chunk that it begins, if it does.

    The new id is a hash of the old one with `salt`; nothing else changes. Anything but a chunk is
    returned as it is. This reads bytes because the chunk inside is cut off and does not decode.
    """
    out: bytearray | None = None
    at = 0
    for _ in range(CHUNK_NESTING_MAX + 1):
        place = _group_id_at(value, at)
        if place is None:
            break
        out = out or bytearray(value)
        group_id = value[place : place + CHUNK_GROUP_ID_BYTES]
        out[place : place + CHUNK_GROUP_ID_BYTES] = blake2b(
            group_id, digest_size=CHUNK_GROUP_ID_BYTES, key=salt[:64]
        ).digest()
        inside = _first_data_at(value, place + CHUNK_GROUP_ID_BYTES)
        if inside is None:
            break
        at = inside
    return value if out is None else bytes(out)


def _group_id_at(value: bytes, at: int) -> int | None:
    """Where the group id of the chunk that begins at `at` stands; None where no chunk begins there."""
    head = value[at : at + 5]
    if len(head) < 5 or head[0] != WIRE_VERSION or not 0x90 + _CHUNK_FIELDS <= head[1] <= 0x9F:
        return None
    place = at + 5 + TRACE_ID_BYTES
    group_head = value[place : place + 2]
    if head[2:] != bytes([_CHUNK_TAG, 0xC4, TRACE_ID_BYTES]):
        return None
    if group_head != bytes([0xC4, CHUNK_GROUP_ID_BYTES]):
        return None
    place += len(group_head)
    return place if len(value) >= place + CHUNK_GROUP_ID_BYTES else None


def _first_data_at(value: bytes, at: int) -> int | None:
    """Where the data of a chunk begin, if they are the first of their value; `at`: after the group id."""
    if value[at : at + 1] != b"\x00":  # the index
        return None
    for _ in range(3):  # index, count, total bytes
        if at >= len(value):
            return None
        at += 1 + _INT_BYTES.get(value[at], 0)
    if at >= len(value) or value[at] not in _BIN_BYTES:
        return None
    return at + 1 + _BIN_BYTES[value[at]]
