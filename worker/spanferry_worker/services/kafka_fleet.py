"""The topic where workers agree on what sampling depends on: one partition, one order for all."""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from spanferry_worker.errors import TransientError
from spanferry_worker.services.kafka_admin import TopicPlan, TopicState, ensure_topic
from spanferry_worker.services.kafka_client import (
    close_quietly,
    kafka_border,
    lone_consumer,
    stop_on_failure,
)
from spanferry_worker.services.kafka_producer import LastingProducer, Outgoing
from spanferry_worker.settings import Settings

__all__ = ["KafkaFleet"]

_APPEND_S: Final = 10.0
_RETENTION_MS: Final = 7 * 24 * 3600 * 1000
"""Where the traces' topic does not say how long it keeps records."""


class KafkaFleet:
    """FleetLog over a producer and a consumer outside of the group."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.fleet_topic
        self._place = TopicPartition(self._topic, 0)
        self._producer = LastingProducer(settings.kafka)
        self._consumer: AIOKafkaConsumer | None = None
        self._end = 0
        self._position = 0

    async def open(self) -> None:
        """See FleetLog."""
        kafka = self._settings.kafka
        with kafka_border(f"use {self._topic} (by ACLs this needs Describe, Read and Write on it)"):
            await ensure_topic(kafka, self._topic, self._plan, what="for sampling")
            await self._producer.open()
            async with stop_on_failure(self._producer.close):
                await self._begin()

    async def _begin(self) -> None:
        consumer = lone_consumer(self._settings.kafka)
        async with stop_on_failure(consumer.stop):
            await consumer.start()
            consumer.assign([self._place])
            ends = await consumer.end_offsets([self._place])
            begins = await consumer.beginning_offsets([self._place])
            consumer.seek(self._place, begins[self._place])
        self._end, self._position = ends[self._place], begins[self._place]
        self._consumer = consumer

    def _plan(self, traces: TopicState) -> TopicPlan:
        retention_ms = traces.retention_ms or _RETENTION_MS
        return TopicPlan.for_fleet(self._topic, traces.replication_factor, retention_ms)

    async def read(self, *, timeout_s: float) -> Sequence[bytes | None]:
        """See FleetLog."""
        consumer = self._consumer
        if consumer is None:
            raise TransientError("not connected to Kafka")
        with kafka_border(f"read {self._topic}"):
            polled = await consumer.getmany(self._place, timeout_ms=int(timeout_s * 1000))
            # Past what compaction has taken away, too.
            self._position = await consumer.position(self._place)
        return [record.value for record in polled.get(self._place, ())]

    def caught_up(self) -> bool:
        """See FleetLog."""
        return self._consumer is not None and self._position >= self._end

    async def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """See FleetLog."""
        with kafka_border(f"write to {self._topic}"):
            async with asyncio.timeout(_APPEND_S):
                await self._producer.send(
                    self._topic, [Outgoing(value, key, partition=0) for key, value in records]
                )

    async def close(self) -> None:
        """See FleetLog."""
        await self._producer.close()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_quietly(consumer.stop)
