"""Batches that zstd packs: the same for whoever reads them as those that aiokafka packs."""

import random
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record import MemoryRecords

from spanferry.batches import ZstdBatch

HEADER_BYTES = 61
UNCOMPRESSED, ZSTD = 0, 4


def filled(batch: Any, values: list[bytes]) -> bytes:
    batch._set_producer_state(5, 3, 7)
    for number, value in enumerate(values):
        assert batch.append(
            timestamp=1_000 + number, key=b"key-%d" % number, value=value, headers=[("h", b"x")]
        )
    batch.close()
    assert batch.append(timestamp=1, key=b"k", value=b"v") is None
    built = bytes(batch._build())
    assert bytes(batch._build()) == built
    assert batch.size() == len(built)
    return built


def read(batch: bytes) -> list[Any]:
    records = MemoryRecords(batch)
    found = []
    while records.has_next():
        one: Any = records.next_batch()
        assert one.validate_crc()
        found += [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in one]
    return found


@pytest.mark.parametrize("count", [1, 7, 300])
def test_whoever_reads_finds_the_same(count: int) -> None:
    values = [b"why? because. " * (number + 20) for number in range(count)]
    plain, theirs, ours = (
        filled(batch, values)
        for batch in (
            BatchBuilder(10_000_000, UNCOMPRESSED),  # type: ignore[no-untyped-call]
            BatchBuilder(10_000_000, ZSTD),  # type: ignore[no-untyped-call]
            ZstdBatch(10_000_000),
        )
    )
    assert read(ours) == read(theirs) == read(plain)
    assert len(read(ours)) == count
    same = [*range(8), 12, 13, 14, 15, 16, *range(21, HEADER_BYTES)]  # all but length and checksum
    assert [ours[at] for at in same] == [theirs[at] for at in same]


def test_what_cannot_be_packed_goes_as_it_is() -> None:
    noise = random.Random(1).randbytes(5_000)
    assert filled(ZstdBatch(10_000), [noise]) == filled(
        BatchBuilder(10_000, UNCOMPRESSED),  # type: ignore[no-untyped-call]
        [noise],
    )
