"""Cutting a value that is too big for one record, and putting it together again."""

from collections.abc import Iterator

from spanferry_schemas.codec import encode
from spanferry_schemas.events import Chunk
from spanferry_schemas.limits import CHUNK_ENVELOPE_BYTES, CHUNKS_MAX, VALUE_BYTES_MAX

__all__ = ["join_chunks", "split_value"]


def split_value(
    value: bytes, *, trace_id: bytes, group_id: bytes, record_bytes_max: int
) -> Iterator[bytes]:
    """`value` as record values of at most `record_bytes_max` bytes each: itself, or its chunks.

    Each chunk is made when it is asked for, so that a caller on a shared thread can pause between
    them. Raises ValueError at once where the value is above the wire's ceiling (256 MiB) or would
    need more than 65,536 chunks: the caller counts it as dropped for its size.
    """
    if len(value) <= record_bytes_max:
        return iter((value,))
    room = record_bytes_max - CHUNK_ENVELOPE_BYTES
    count = -(-len(value) // room) if room > 0 else CHUNKS_MAX + 1
    if len(value) > VALUE_BYTES_MAX or count > CHUNKS_MAX:
        raise ValueError(f"{len(value)} bytes cannot be sent in records of {record_bytes_max}")
    view = memoryview(value)
    return (
        encode(
            Chunk(
                trace_id=trace_id,
                group_id=group_id,
                index=index,
                count=count,
                total_bytes=len(value),
                data=bytes(view[index * room : (index + 1) * room]),
            )
        )
        for index in range(count)
    )


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
