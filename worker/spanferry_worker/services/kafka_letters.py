"""Reads the dead letters' topic as it lies there, outside of any consumer group: nothing is committed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.services.kafka_admin import describe_topic
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    kafka_border,
    stop_on_failure,
)
from spanferry_worker.services.kafka_reread import reread
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import Position

__all__ = ["LetterLog", "Window", "open_letters", "partition_count"]

_QUESTION_S = 30.0
"""How long starting, and a question about offsets, may take."""
_STILL_S = 30.0
"""Without a record for this long, though some are there, Kafka does not deliver."""
_POLL_MS = 1_000
_FETCH_BYTES = 8 * 1024 * 1024
_POLL_RECORDS = 500


class Window(Struct, frozen=True):
    """Part of the topic: by partition the first offset in it, and the first one after it."""

    begin: Mapping[int, int]
    end: Mapping[int, int]


class LetterLog:
    """The topic, open for reading. Made by `open_letters`.

    `window` is what lay there when it was opened; what comes later is not read.
    """

    def __init__(self, settings: Settings, consumer: AIOKafkaConsumer, window: Window) -> None:
        self._settings = settings
        self._consumer = consumer
        self.topic = settings.dead_letter_topic
        self.window = window

    async def records(self) -> AsyncGenerator[Record]:
        """Letters and receipts, partition by partition, by rising offsets; from the start each time.

        Raises TransientError where Kafka does not deliver, FatalError where it refuses.
        """
        for number, end in sorted(self.window.end.items()):
            at = self.window.begin[number]
            if at >= end:
                continue
            place = TopicPartition(self.topic, number)
            self._consumer.assign([place])
            self._consumer.seek(place, at)
            loop = asyncio.get_running_loop()
            moved_s = loop.time()
            while at < end:
                polled = await self._poll(place)
                for record in polled:
                    if record.offset >= end:
                        break
                    yield record
                # Past what is never given to us, as a transaction's markers are.
                position = await self._position(place)
                if position > at:
                    at, moved_s = position, loop.time()
                elif loop.time() - moved_s > _STILL_S:
                    raise TransientError(
                        f"Kafka does not deliver {self.topic} partition {number} from {at} on"
                    )

    async def _poll(self, place: TopicPartition) -> list[Record]:
        with _border(self.topic):
            polled = await self._consumer.getmany(
                place, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
            )
        return list(polled.get(place, ()))

    async def _position(self, place: TopicPartition) -> int:
        with _border(self.topic):
            async with asyncio.timeout(_QUESTION_S):
                position: int = await self._consumer.position(place)
        return position

    async def one(self, partition: int, offset: int) -> Record | None:
        """A single record; None where there is none (any more). The partition must exist."""
        with _border(self.topic):
            found = await reread(self._settings.kafka, [Position(self.topic, partition, offset)])
        return found[0] if found else None


@contextlib.asynccontextmanager
async def open_letters(
    settings: Settings, *, since_ms: int | None = None, window: Window | None = None
) -> AsyncGenerator[LetterLog]:
    """Open the topic from its beginning, or from what was written at `since_ms` or later.

    `window`: that of an earlier look, instead; so a replay never meets what has come back of it.
    Raises TransientError where Kafka cannot be reached, FatalError where it refuses or where there is
    no such topic: the message says what to do.
    """
    topic = settings.dead_letter_topic
    partitions = await partition_count(settings, topic)
    if partitions is None:
        raise FatalError(
            f"the dead letters' topic {topic} does not exist, or this user may not see it. Is --topic "
            "that of the traces? A worker makes it when it starts, and so does `spanferry topics "
            "create`; by ACLs this needs Describe and Read on it"
        )
    consumer = AIOKafkaConsumer(
        **connection_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    with _border(topic):
        async with stop_on_failure(consumer.stop), asyncio.timeout(_QUESTION_S):
            await consumer.start()
            if window is None:
                window = await _window(consumer, topic, partitions, since_ms)
    try:
        yield LetterLog(settings, consumer, window)
    finally:
        await close_quietly(consumer.stop)


async def partition_count(settings: Settings, topic: str) -> int | None:
    """How many partitions a topic has; None where there is none. Raises as `open_letters` does."""
    with kafka_border(f"reach Kafka at {settings.kafka.bootstrap_servers}"):
        state = await describe_topic(settings.kafka, topic)
    return None if state is None else state.partitions


async def _window(
    consumer: AIOKafkaConsumer, topic: str, partitions: int, since_ms: int | None
) -> Window:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    begins = await consumer.beginning_offsets(places)
    ends = await consumer.end_offsets(places)
    if since_ms is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
        # None: nothing that new is there.
        begins = {p: ends[p] if found[p] is None else found[p].offset for p in places}
    return Window(
        {place.partition: offset for place, offset in begins.items()},
        {place.partition: offset for place, offset in ends.items()},
    )


def _border(topic: str) -> contextlib.AbstractContextManager[None]:
    return kafka_border(f"read {topic} (by ACLs this needs Describe and Read on it)")
