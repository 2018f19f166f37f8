"""Cutting a value that is too big for one record, and putting it together again."""

from collections.abc import Iterator, Sequence

from spanferry_schemas.codec import encode
from spanferry_schemas.events import Chunk
from spanferry_schemas.limits import CHUNK_ENVELOPE_BYTES, CHUNKS_MAX, VALUE_BYTES_MAX

__all__ = ["join_chunks", "split_value"]


def split_value(
    value: bytes | Sequence[bytes], *, trace_id: bytes, group_id: bytes, record_bytes_max: int
) -> Iterator[bytes]:
    """`value` as record values of at most `record_bytes_max` bytes each: itself, or its chunks.

    It may be given in parts, which are not put together then: a copy of a giant takes long.

    Each chunk is made when it is asked for, so that a caller on a shared thread can pause between
    them. Raises ValueError at once where the value is above the wire's ceiling (256 MiB) or would
    need more than 65,536 chunks: the caller counts it as dropped for its size.
    """
    parts = (value,) if isinstance(value, bytes) else value
    total_bytes = sum(map(len, parts))
    if total_bytes <= record_bytes_max:
        return iter((b"".join(parts),))
    room = record_bytes_max - CHUNK_ENVELOPE_BYTES
    count = -(-total_bytes // room) if room > 0 else CHUNKS_MAX + 1
    if total_bytes > VALUE_BYTES_MAX or count > CHUNKS_MAX:
        raise ValueError(f"{total_bytes} bytes cannot be sent in records of {record_bytes_max}")
    views = [memoryview(part) for part in parts]
    return (
        encode(
            Chunk(
                trace_id=trace_id,
                group_id=group_id,
                index=index,
                count=count,
                total_bytes=total_bytes,
                data=_between(views, index * room, (index + 1) * room),
            )
        )
        for index in range(count)
    )


def _between(views: list[memoryview], start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop` of all of them."""
    found: list[memoryview] = []
    for view in views:
        found.append(view[max(start, 0) : max(stop, 0)])
        start, stop = start - len(view), stop - len(view)
    return b"".join(found)


def join_chunks(chunks: list[Chunk]) -> bytes | None:
    """The value of a full set of chunks, in any order; None where they do not fit together."""
    if not chunks:
        return None
    first = chunks[0]
    pieces: dict[int, bytes] = {}
    for chunk in chunks:
        if (chunk.count, chunk.total_bytes) != (first.count, first.total_bytes):
            return None
        pieces[chunk.index] = chunk.data
    if len(pieces) != first.count:
        return None
    value = b"".join(pieces[index] for index in range(first.count))
    return value if len(value) == first.total_bytes else None
