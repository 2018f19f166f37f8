"""What `spanferry ledger` asks Kafka: how far partitions are committed, and what lies behind that."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

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
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import Record

__all__ = ["Extent", "TraceReader", "open_traces"]

_POLL_MS: Final = 500
_QUESTION_S: Final = 30.0
_STILL_S: Final = 30.0
_FETCH_BYTES: Final = 8 * 1024 * 1024


class Extent(Struct, frozen=True):
    """A partition: its first offset, what the group has committed, and one past its last offset."""

    begin: int
    committed: int | None
    end: int


class TraceReader:
    """The traces' topic, outside of the group: nothing is committed. Made by `open_traces`."""

    def __init__(
        self, consumer: AIOKafkaConsumer, topic: str, extents: Mapping[int, Extent]
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self.extents = extents

    async def records(self, number: int, begin: int, end: int) -> AsyncGenerator[Sequence[Record]]:
        """What lies between two offsets of a partition, in order. Raises as `open_traces` does."""
        place = TopicPartition(self._topic, number)
        self._consumer.assign([place])
        self._consumer.seek(place, begin)
        loop = asyncio.get_running_loop()
        at, moved_s = begin, loop.time()
        while at < end:
            with _border(self._topic):
                polled = await self._consumer.getmany(place, timeout_ms=_POLL_MS)
                position = await self._consumer.position(place)
            yield [record for record in polled.get(place, ()) if record.offset < end]
            if position > at:
                at, moved_s = position, loop.time()
            elif loop.time() - moved_s > _STILL_S:
                raise TransientError(f"Kafka does not deliver {self._topic} partition {number}")


@contextlib.asynccontextmanager
async def open_traces(settings: Settings) -> AsyncGenerator[TraceReader]:
    """Look at every partition, as of now. Raises TransientError, or FatalError where Kafka refuses."""
    topic = settings.kafka.topic
    with kafka_border(f"reach Kafka at {settings.kafka.bootstrap_servers}"):
        state = await describe_topic(settings.kafka, topic)
    if state is None:
        raise FatalError(f"the topic {topic} does not exist, or this user may not see it")
    consumer = AIOKafkaConsumer(
        **connection_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    places = [TopicPartition(topic, number) for number in range(state.partitions)]
    with _border(topic):
        async with stop_on_failure(consumer.stop), asyncio.timeout(_QUESTION_S):
            await consumer.start()
            begins = await consumer.beginning_offsets(places)
            ends = await consumer.end_offsets(places)
    committed = await _committed(settings, places)
    extents = {
        place.partition: Extent(begins[place], committed.get(place.partition), ends[place])
        for place in places
    }
    try:
        yield TraceReader(consumer, topic, extents)
    finally:
        await close_quietly(consumer.stop)


async def _committed(settings: Settings, places: Sequence[TopicPartition]) -> dict[int, int]:
    """What the group has committed, asked without becoming a member of it."""
    group = settings.kafka.group
    consumer = AIOKafkaConsumer(
        **connection_options(settings.kafka), group_id=group, enable_auto_commit=False
    )
    with kafka_border(f"ask what {group} has committed (by ACLs this needs Describe on the group)"):
        async with stop_on_failure(consumer.stop), asyncio.timeout(_QUESTION_S):
            await consumer.start()
            consumer.assign(places)
            found = {place.partition: await consumer.committed(place) for place in places}
    await close_quietly(consumer.stop)
    return {number: offset for number, offset in found.items() if offset is not None}


def _border(topic: str) -> contextlib.AbstractContextManager[None]:
    return kafka_border(f"read {topic} (by ACLs this needs Describe and Read on it)")
