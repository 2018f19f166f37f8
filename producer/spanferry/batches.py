"""Batches of records as Kafka takes them: aiokafka writes them, zstd at its fastest level packs them.

aiokafka has no setting for the level, and its default (3) takes half again as long for a few percent
less; on the sender's thread compression is the largest part of what a trace costs. Imports aiokafka,
which is the sender's business.
"""

import struct
from typing import Any, Final

import cramjam
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

__all__ = ["ZstdBatch", "packed"]

_LEVEL: Final = 1

_LENGTH: Final = struct.Struct(">i")
_LENGTH_AT: Final = 8
"""It counts what comes behind it."""
_CHECKED: Final = struct.Struct(">Ih")
_CRC_AT: Final = 17
_ATTRIBUTES_AT: Final = 21
"""The checksum is of all from there on."""
_RECORDS_AT: Final = 61
_ZSTD: Final = 4
_CODECS: Final = 7
"""The bits of the attributes that name the codec."""

_crc32c: Any = calc_crc32c  # it takes any buffer


class ZstdBatch(BatchBuilder):
    """A batch that packs itself when it is sent."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max, 0)  # type: ignore[no-untyped-call]
        self._packed: bytes | bytearray | None = None

    def _build(self) -> Any:
        if self._packed is None:
            plain: bytearray = super()._build()  # type: ignore[no-untyped-call]
            self._buffer = self._packed = packed(plain)
        return self._packed


def packed(batch: bytes | bytearray) -> bytes | bytearray:
    """A record batch of magic 2 that is not compressed, compressed; itself where that saves nothing.

    As https://kafka.apache.org/documentation/#recordbatch has it.
    """
    view = memoryview(batch)
    records = cramjam.zstd.compress(view[_RECORDS_AT:], _LEVEL)
    size = _RECORDS_AT + len(records)
    if size >= len(batch):
        return batch
    made = bytearray(size)
    made[:_RECORDS_AT] = view[:_RECORDS_AT]
    made[_RECORDS_AT:] = memoryview(records)
    _LENGTH.pack_into(made, _LENGTH_AT, size - _LENGTH_AT - _LENGTH.size)
    attributes = _CHECKED.unpack_from(made, _CRC_AT)[1] & ~_CODECS | _ZSTD
    _CHECKED.pack_into(made, _CRC_AT, 0, attributes)
    crc = _crc32c(memoryview(made)[_ATTRIBUTES_AT:])
    _CHECKED.pack_into(made, _CRC_AT, crc, attributes)
    return made
