"""Partition logs: offsets, limits, repeats, what is read and what is forgotten."""

import struct

import pytest

from spanferry_worker.dev.broker.errors import Code
from spanferry_worker.dev.broker.storage import PartitionLog, Storage

BATCH_BYTES_MAX = 10_000


def batch(records: int = 1, *, size: int = 100, producer: int = -1, sequence: int = -1) -> bytes:
    """A record batch's header and `size` bytes in all; the records themselves do not matter."""
    header = struct.pack(
        ">qiibIhiqqqhii",
        0,
        size - 12,
        -1,
        2,
        0,
        0,
        records - 1,
        0,
        1_000,
        producer,
        0,
        sequence,
        records,
    )
    return header.ljust(size, b"x")


def test_offsets_count_records_not_batches() -> None:
    log = PartitionLog()
    assert log.append(batch(3), BATCH_BYTES_MAX) == (Code.NONE, 0)
    assert log.append(batch(2) + batch(1), BATCH_BYTES_MAX) == (Code.NONE, 3)
    assert (log.start_offset, log.end_offset) == (0, 6)


def test_read_starts_with_the_batch_that_holds_the_offset_and_gives_at_least_one() -> None:
    log = PartitionLog()
    for _ in range(3):
        log.append(batch(2), BATCH_BYTES_MAX)
    first_offset = struct.Struct(">q").unpack_from
    assert first_offset(log.read(3, 1)) == (2,)
    assert len(log.read(3, 1)) == 100
    assert len(log.read(0, 250)) == 200
    assert log.read(6, 1_000) == b""


@pytest.mark.parametrize("data", [b"", b"short", batch()[:-1], batch() + b"x"])
def test_bytes_that_are_no_batch_are_refused(data: bytes) -> None:
    log = PartitionLog()
    code, offset = log.append(data, BATCH_BYTES_MAX)
    assert offset == -1
    assert (code, log.end_offset) == ((Code.CORRUPT_MESSAGE if data else Code.NONE), 0)


def test_a_batch_above_the_limit_is_refused() -> None:
    assert PartitionLog().append(batch(size=200), 199) == (Code.MESSAGE_TOO_LARGE, -1)


def test_a_repeated_batch_of_an_idempotent_producer_is_stored_once() -> None:
    log = PartitionLog()
    for sequence in (0, 2, 4):
        log.append(batch(2, producer=7, sequence=sequence), BATCH_BYTES_MAX)
    assert log.append(batch(2, producer=7, sequence=2), BATCH_BYTES_MAX) == (Code.NONE, 2)
    assert log.end_offset == 6


def test_a_gap_of_an_idempotent_producer_is_refused() -> None:
    log = PartitionLog()
    log.append(batch(2, producer=7, sequence=0), BATCH_BYTES_MAX)
    refused = log.append(batch(2, producer=7, sequence=3), BATCH_BYTES_MAX)
    assert refused == (Code.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)


def test_the_fullest_partition_forgets_its_oldest_when_there_is_too_much() -> None:
    storage = Storage(retention_bytes=450)
    storage.create("t", 2, {})
    for partition in (0, 0, 0, 1, 0, 0):
        storage.append("t", partition, batch())
    full, other = storage.log("t", 0), storage.log("t", 1)
    assert full is not None
    assert other is not None
    assert (full.start_offset, full.end_offset, full.size_bytes) == (2, 5, 300)
    assert (other.start_offset, other.end_offset) == (0, 1)


def test_topics_that_cannot_be() -> None:
    storage = Storage(1_000)
    assert storage.create("t", 0, {}) is Code.INVALID_PARTITIONS
    assert storage.create("t", 1, {"no.such": "1"}) is Code.INVALID_CONFIG
    assert storage.create("t", 1, {"max.message.bytes": "much"}) is Code.INVALID_CONFIG
    assert storage.create("t", 1, {}) is Code.NONE
    assert storage.create("t", 1, {}) is Code.TOPIC_ALREADY_EXISTS
    assert storage.append("other", 0, batch()) == (Code.UNKNOWN_TOPIC_OR_PARTITION, -1)
    assert storage.append("t", 1, batch()) == (Code.UNKNOWN_TOPIC_OR_PARTITION, -1)
