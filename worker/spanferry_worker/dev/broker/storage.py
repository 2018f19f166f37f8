"""Topics and their partition logs, in memory. No I/O; whoever appends wakes the waiting fetches."""

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from spanferry_worker.dev.broker.errors import Code

__all__ = ["TOPIC_DEFAULTS", "Batch", "PartitionLog", "Storage", "Topic"]

TOPIC_DEFAULTS: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "min.cleanable.dirty.ratio": "0.5",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "segment.bytes": "1073741824",
    "segment.ms": "604800000",
}
"""The topic settings that exist here, with Kafka's defaults. Only max.message.bytes has an effect."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH_OFFSET: Final = 12
"""What precedes the counted part of a record batch: base offset and length."""
_MAGIC: Final = 2
_SEQUENCES_KEPT: Final = 5
"""As Kafka: an idempotent producer has at most five batches in flight."""


class Batch(NamedTuple):
    """One record batch as the producer sent it, with its place in the log."""

    base_offset: int
    next_offset: int
    timestamp_ms: int
    producer: tuple[int, int]
    base_sequence: int
    data: bytes


def _read_batches(data: bytes) -> Iterator[Batch]:
    """The record batches in a produce request, offsets counted from 0. Raises ValueError."""
    position = 0
    while position < len(data):
        try:
            fields = _HEADER.unpack_from(data, position)
        except struct.error as error:
            raise ValueError("a record batch is cut off") from error
        length, magic, last_delta = fields[1], fields[3], fields[6]
        end = position + _LENGTH_OFFSET + length
        if magic != _MAGIC or length < 0 or last_delta < 0 or end > len(data):
            raise ValueError("not a record batch of format 2")
        yield Batch(0, last_delta + 1, fields[8], fields[9:11], fields[11], data[position:end])
        position = end


class PartitionLog:
    """One partition: batches in order, and what is known of its idempotent producers."""

    def __init__(self) -> None:
        self.start_offset = 0
        self.end_offset = 0
        self.size_bytes = 0
        self._batches: list[Batch] = []
        self._sequences: dict[tuple[int, int], deque[Batch]] = {}

    def append(self, data: bytes, batch_bytes_max: int) -> tuple[Code, int]:
        """Take a produce request's bytes: the code and the offset of its first record (or -1)."""
        try:
            batches = list(_read_batches(data))
        except ValueError:
            return Code.CORRUPT_MESSAGE, -1
        if any(len(batch.data) > batch_bytes_max for batch in batches):
            return Code.MESSAGE_TOO_LARGE, -1
        first = -1
        for batch in batches:
            code, offset = self._append_one(batch)
            if code:
                return code, -1
            first = offset if first < 0 else first
        return Code.NONE, first

    def _append_one(self, batch: Batch) -> tuple[Code, int]:
        idempotent = batch.producer[0] >= 0
        if idempotent and (known := self._sequences.get(batch.producer)):
            for kept in known:
                if kept.base_sequence == batch.base_sequence:
                    return Code.NONE, kept.base_offset
            last = known[-1]
            if batch.base_sequence != last.base_sequence + last.next_offset - last.base_offset:
                return Code.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
        offset = self.end_offset
        # The base offset stands before the part that the batch's checksum covers.
        placed = batch._replace(
            base_offset=offset,
            next_offset=offset + batch.next_offset,
            data=offset.to_bytes(8, "big") + batch.data[8:],
        )
        self._batches.append(placed)
        self.end_offset = placed.next_offset
        self.size_bytes += len(placed.data)
        if idempotent:
            remembered = self._sequences.setdefault(batch.producer, deque(maxlen=_SEQUENCES_KEPT))
            remembered.append(placed._replace(data=b""))
        return Code.NONE, offset

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Whole batches from the one that holds `offset`; at least one where there is one."""
        if offset >= self.end_offset:
            return b""
        index = bisect_right(self._batches, offset, key=lambda batch: batch.base_offset) - 1
        found: list[bytes] = []
        size = 0
        for position in range(max(index, 0), len(self._batches)):
            data = self._batches[position].data
            if found and size + len(data) > bytes_max:
                break
            found.append(data)
            size += len(data)
        return b"".join(found)

    def offset_at(self, timestamp_ms: int) -> tuple[int, int]:
        """(time, offset) of the first batch at or after a time; (-1, -1) where there is none."""
        for batch in self._batches:
            if batch.timestamp_ms >= timestamp_ms:
                return batch.timestamp_ms, batch.base_offset
        return -1, -1

    def drop_oldest(self) -> int:
        """Forget the oldest batch; returns its bytes, 0 where the log is empty."""
        if not self._batches:
            return 0
        oldest = self._batches.pop(0)
        self.start_offset = oldest.next_offset
        self.size_bytes -= len(oldest.data)
        return len(oldest.data)


class Topic:
    """A topic's partitions and settings."""

    def __init__(self, name: str, partitions: int, config: Mapping[str, str]) -> None:
        self.name = name
        self.config = {**TOPIC_DEFAULTS, **config}
        self.logs = [PartitionLog() for _ in range(partitions)]

    @property
    def batch_bytes_max(self) -> int:
        """Largest record batch, as the setting `max.message.bytes` says."""
        return int(self.config["max.message.bytes"])


class Storage:
    """All topics. Above `retention_bytes` the fullest partition's oldest batches are forgotten."""

    def __init__(self, retention_bytes: int) -> None:
        self._retention_bytes = retention_bytes
        self._size_bytes = 0
        self.topics: dict[str, Topic] = {}

    def check(self, name: str, partitions: int, config: Mapping[str, str]) -> Code:
        """Whether a topic could be made like this."""
        if name in self.topics:
            return Code.TOPIC_ALREADY_EXISTS
        if partitions < 1:
            return Code.INVALID_PARTITIONS
        unknown = config.keys() - TOPIC_DEFAULTS.keys()
        if unknown or not config.get("max.message.bytes", "1").isdecimal():
            return Code.INVALID_CONFIG
        return Code.NONE

    def create(self, name: str, partitions: int, config: Mapping[str, str]) -> Code:
        """Make a topic; the code says why not."""
        code = self.check(name, partitions, config)
        if not code:
            self.topics[name] = Topic(name, partitions, config)
        return code

    def log(self, topic: str, partition: int) -> PartitionLog | None:
        """A partition's log, None where it does not exist."""
        found = self.topics.get(topic)
        return found.logs[partition] if found and 0 <= partition < len(found.logs) else None

    def append(self, topic: str, partition: int, data: bytes) -> tuple[Code, int]:
        """Append to a partition: the code and the first offset."""
        log = self.log(topic, partition)
        if log is None:
            return Code.UNKNOWN_TOPIC_OR_PARTITION, -1
        before = log.size_bytes
        code, offset = log.append(data, self.topics[topic].batch_bytes_max)
        self._size_bytes += log.size_bytes - before
        while self._size_bytes > self._retention_bytes:
            self._size_bytes -= self._fullest().drop_oldest()
        return code, offset

    def _fullest(self) -> PartitionLog:
        logs = (log for topic in self.topics.values() for log in topic.logs)
        return max(logs, key=lambda log: log.size_bytes)
