"""The topic that says which traces were dropped: as many partitions as the traces have, kept as long."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from spanferry_worker.errors import TransientError
from spanferry_worker.services.kafka_admin import (
    TopicPlan,
    describe_topic,
    ensure_topic,
    grow_topic,
)
from spanferry_worker.services.kafka_client import kafka_border
from spanferry_worker.services.kafka_producer import LastingProducer, Outgoing
from spanferry_worker.services.kafka_scan import open_scan
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import Record

__all__ = ["KafkaDropped"]

_APPEND_S: Final = 10.0
_PORTION_FIRST: Final = 200
"""Records that are read first, backwards from the end; then four times as many each time ..."""
_PORTION_MAX: Final = 12_800
_RECORDS_MAX: Final = 100_000
"""... up to these. One may carry very many traces, or one."""


class KafkaDropped:
    """DroppedLog over one idempotent producer, and a consumer of its own for every look."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.dropped_topic
        self._partitions = 0
        self._producer = LastingProducer(settings.kafka)

    async def open(self) -> None:
        """See DroppedLog."""
        kafka = self._settings.kafka
        with kafka_border(f"use {self._topic} (by ACLs this needs Describe, Read and Write on it)"):
            await ensure_topic(
                kafka,
                self._topic,
                lambda traces: TopicPlan.for_dropped(self._topic, traces),
                what="for dropped traces",
            )
            self._partitions = await self._grown()
            await self._producer.open()

    async def _grown(self) -> int:
        """How many partitions there are, once there are as many as the traces have."""
        kafka = self._settings.kafka
        traces = await describe_topic(kafka, kafka.topic)
        mine = await describe_topic(kafka, self._topic)
        if traces is None or mine is None:
            raise TransientError(f"Kafka does not know {kafka.topic} and {self._topic} yet")
        if mine.partitions < traces.partitions:
            await grow_topic(kafka, self._topic, traces.partitions)
        return max(mine.partitions, traces.partitions)

    async def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        """See DroppedLog."""
        with kafka_border(f"write to {self._topic}"):
            async with asyncio.timeout(_APPEND_S):
                known = await self._producer.partitions_for(self._topic)
                for partition, _ in records:
                    self._check(partition, len(known))
                await self._producer.send(
                    self._topic,
                    [Outgoing(value, None, partition=partition) for partition, value in records],
                )

    async def tail(self, partition: int) -> AsyncGenerator[Sequence[Record]]:
        """See DroppedLog."""
        self._check(partition, self._partitions)
        async with open_scan(self._settings, self._topic, self._partitions) as scan:
            begin, end = scan.window.begin[partition], scan.window.end[partition]
            begin = max(begin, end - _RECORDS_MAX)
            count = _PORTION_FIRST
            while end > begin:
                start = max(begin, end - count)
                portion: list[Record] = []
                async for some in scan.between(partition, start, end):
                    portion += some
                yield portion
                end, count = start, min(count * 4, _PORTION_MAX)

    def _check(self, partition: int, count: int) -> None:
        """The traces' topic may have grown since `open`."""
        if partition >= count:
            raise TransientError(f"{self._topic} has no partition {partition} yet")

    async def close(self) -> None:
        """See DroppedLog."""
        self._partitions = 0
        await self._producer.close()
