"""Reads a topic as it lies there, outside of any consumer group: nothing is committed."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.partitioner import murmur2
from msgspec import Struct

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Partition
from spanferry_worker.services.kafka_admin import describe_topic
from spanferry_worker.services.kafka_client import (
    close_quietly,
    kafka_border,
    lone_consumer,
    reach_border,
    stop_on_failure,
)
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import Record

__all__ = ["Times", "TopicScan", "Window", "open_scan", "partition_count", "partition_of"]

_QUESTION_S = 30.0
"""How long starting, and a question about offsets, may take."""
_STILL_S = 30.0
"""Without a record for this long, though some are there, Kafka does not deliver."""
_POLL_MS = 1_000
_FETCH_BYTES = 8 * 1024 * 1024
_MERGE_FETCH_BYTES = 1024 * 1024
"""Of each partition, where all are read at once ..."""
_BUFFER_BYTES = 2 * 1024 * 1024
"""... and how much of each may wait for the others."""
_POLL_RECORDS = 500


class Window(Struct, frozen=True):
    """Part of a topic: by partition the first offset in it, and the first one after it."""

    begin: Mapping[int, int]
    end: Mapping[int, int]


class Times(NamedTuple):
    """Records that were produced from one moment until before another."""

    since_ms: int | None = None
    until_ms: int | None = None


def partition_of(key: bytes, count: int) -> int:
    """Where Kafka's own partitioner puts a key."""
    return (int(murmur2(key)) & 0x7FFF_FFFF) % count


class TopicScan:
    """A topic, open for reading. Made by `open_scan`.

    `window` is what lay there when it was opened; what comes later is not read.
    """

    def __init__(self, topic: str, consumer: AIOKafkaConsumer, window: Window) -> None:
        self._consumer = consumer
        self.topic = topic
        self.window = window

    async def records(self, partitions: Collection[int] | None = None) -> AsyncGenerator[Record]:
        """Partition by partition, by rising offsets; from the start each time.

        Raises TransientError where Kafka does not deliver, FatalError where it refuses.
        """
        for number, end in sorted(self.window.end.items()):
            if partitions is not None and number not in partitions:
                continue
            async for batch in self.between(number, self.window.begin[number], end):
                for record in batch:
                    yield record

    async def between(self, number: int, begin: int, end: int) -> AsyncGenerator[Sequence[Record]]:
        """What lies between two offsets of a partition, by rising offsets. Raises as `records` does."""
        at = begin
        if at >= end:
            return
        place = TopicPartition(self.topic, number)
        self._consumer.assign([place])
        self._consumer.seek(place, at)
        loop = asyncio.get_running_loop()
        moved_s = loop.time()
        while at < end:
            polled = await self._poll([place])
            yield [record for record in polled.get(place, ()) if record.offset < end]
            # Past what is never given to us, as a transaction's markers are.
            position = await self._position(place)
            if position > at:
                at, moved_s = position, loop.time()
            elif loop.time() - moved_s > _STILL_S:
                raise TransientError(
                    f"Kafka does not deliver {self.topic} partition {number} from {at} on"
                )

    async def ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """One past the last record of each of these, of any topic, now."""
        if not partitions:
            return {}
        with _border(self.topic):
            async with asyncio.timeout(_QUESTION_S):
                found = await self._consumer.end_offsets(
                    [TopicPartition(*one) for one in partitions]
                )
        return {Partition(*place): end for place, end in found.items()}

    async def merged(self) -> AsyncGenerator[Record]:
        """All partitions at once, the oldest record first; within a partition by rising offsets.

        Some megabytes of each partition are held. Raises as `records` does.
        """
        feeds = {
            TopicPartition(self.topic, number): _Feed(self.window.begin[number], end)
            for number, end in self.window.end.items()
            if self.window.begin[number] < end
        }
        self._consumer.assign(list(feeds))
        for place, feed in feeds.items():
            self._consumer.seek(place, feed.at)
        while feeds:
            await self._fill(feeds)
            for place in [place for place, feed in feeds.items() if feed.over]:
                del feeds[place]
            while feeds and all(feed.waiting for feed in feeds.values()):
                oldest = min(feeds.values(), key=lambda feed: feed.waiting[0].timestamp)
                yield oldest.pop()
                if oldest.over:
                    break

    async def _fill(self, feeds: "Mapping[TopicPartition, _Feed]") -> None:
        """Poll until every partition has something waiting, or is read to its end."""
        loop = asyncio.get_running_loop()
        moved_s = loop.time()
        while any(feed.hungry for feed in feeds.values()):
            wanted = [place for place, feed in feeds.items() if feed.has_room]
            polled = await self._poll(wanted)
            for place in wanted:
                if feeds[place].take(polled.get(place, ()), await self._position(place)):
                    moved_s = loop.time()
            if loop.time() - moved_s > _STILL_S:
                raise TransientError(f"Kafka does not deliver {self.topic}")

    async def _poll(
        self, places: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        with _border(self.topic):
            polled: Mapping[TopicPartition, Sequence[Record]] = await self._consumer.getmany(
                *places, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
            )
        return polled

    async def _position(self, place: TopicPartition) -> int:
        with _border(self.topic):
            async with asyncio.timeout(_QUESTION_S):
                position: int = await self._consumer.position(place)
        return position

    async def retained_since_ms(self, partition: int) -> int | None:
        """When the oldest record of a partition was produced; None where it is empty."""
        place = TopicPartition(self.topic, partition)
        with _border(self.topic):
            async with asyncio.timeout(_QUESTION_S):
                found = await self._consumer.offsets_for_times({place: 0})
        oldest = found.get(place)
        return None if oldest is None else int(oldest.timestamp)


class _Feed:
    """One partition of a merged reading."""

    def __init__(self, at: int, end: int) -> None:
        self.at = at
        self.waiting: deque[Record] = deque()
        self._end = end
        self._held_bytes = 0

    @property
    def over(self) -> bool:
        return self.at >= self._end and not self.waiting

    @property
    def hungry(self) -> bool:
        return self.at < self._end and not self.waiting

    @property
    def has_room(self) -> bool:
        return self.at < self._end and self._held_bytes < _BUFFER_BYTES

    def take(self, records: Sequence[Record], position: int) -> bool:
        """What was polled; whether the partition has moved."""
        for record in records:
            if record.offset < self._end:
                self.waiting.append(record)
                self._held_bytes += len(record.value or b"")
        moved = position > self.at
        self.at = position
        return moved

    def pop(self) -> Record:
        record = self.waiting.popleft()
        self._held_bytes -= len(record.value or b"")
        return record


@contextlib.asynccontextmanager
async def open_scan(
    settings: Settings,
    topic: str,
    partitions: int,
    part: "Times | Window | None" = None,
    *,
    merging: bool = False,
) -> AsyncGenerator[TopicScan]:
    """Open a topic with so many partitions: all of it, or a part: by times, or that of an earlier look.

    `merging`: for `merged`, which needs smaller fetches.
    Raises TransientError where Kafka cannot be reached, FatalError where it refuses.
    """
    fetch_bytes = _MERGE_FETCH_BYTES if merging else _FETCH_BYTES
    consumer = lone_consumer(settings.kafka, max_partition_fetch_bytes=fetch_bytes)
    with _border(topic):
        async with stop_on_failure(consumer.stop), asyncio.timeout(_QUESTION_S):
            await consumer.start()
            if not isinstance(part, Window):
                part = await _window(consumer, topic, partitions, part or Times())
    try:
        yield TopicScan(topic, consumer, part)
    finally:
        await close_quietly(consumer.stop)


async def partition_count(settings: Settings, topic: str) -> int | None:
    """How many partitions a topic has; None where there is none. Raises as `open_scan` does."""
    with reach_border(settings.kafka):
        state = await describe_topic(settings.kafka, topic)
    return None if state is None else state.partitions


async def _window(
    consumer: AIOKafkaConsumer,
    topic: str,
    partitions: int,
    times: Times,
) -> Window:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    begins = await consumer.beginning_offsets(places)
    ends = await consumer.end_offsets(places)
    if times.since_ms is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(places, times.since_ms))
        # None: nothing that new is there.
        begins = {p: ends[p] if found[p] is None else found[p].offset for p in places}
    if times.until_ms is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(places, times.until_ms))
        ends = {p: ends[p] if found[p] is None else found[p].offset for p in places}
    return Window(
        {place.partition: offset for place, offset in begins.items()},
        {place.partition: offset for place, offset in ends.items()},
    )


def _border(topic: str) -> contextlib.AbstractContextManager[None]:
    return kafka_border(f"read {topic} (by ACLs this needs Describe and Read on it)")
