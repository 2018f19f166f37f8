"""What `spanferry ledger` asks Kafka: how far partitions are committed, and what lies behind that."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from spanferry_worker.errors import FatalError
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    kafka_border,
    stop_on_failure,
)
from spanferry_worker.services.kafka_scan import TopicScan, open_scan, partition_count
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import Record

__all__ = ["Extent", "TraceReader", "open_traces"]

_QUESTION_S: Final = 30.0


class Extent(Struct, frozen=True):
    """A partition: its first offset, what the group has committed, and one past its last offset."""

    begin: int
    committed: int | None
    end: int


class TraceReader:
    """The traces' topic, outside of the group: nothing is committed. Made by `open_traces`."""

    def __init__(self, scan: TopicScan, extents: Mapping[int, Extent]) -> None:
        self._scan = scan
        self.extents = extents

    def records(self, number: int, begin: int, end: int) -> AsyncGenerator[Sequence[Record]]:
        """What lies between two offsets of a partition, in order. Raises as `open_traces` does."""
        return self._scan.between(number, begin, end)


@contextlib.asynccontextmanager
async def open_traces(settings: Settings) -> AsyncGenerator[TraceReader]:
    """Look at every partition, as of now. Raises TransientError, or FatalError where Kafka refuses."""
    topic = settings.kafka.topic
    count = await partition_count(settings, topic)
    if count is None:
        raise FatalError(f"the topic {topic} does not exist, or this user may not see it")
    async with open_scan(settings, topic, count) as scan:
        begins, ends = scan.window.begin, scan.window.end
        committed = await _committed(settings, [TopicPartition(topic, each) for each in ends])
        extents = {
            each: Extent(begins[each], committed.get(each), end) for each, end in ends.items()
        }
        yield TraceReader(scan, extents)


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
