"""An idempotent producer that is made anew after a failure which it would not get over."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer, errors

from spanferry_worker.errors import TransientError
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    stop_on_failure,
)
from spanferry_worker.settings import KafkaSettings

__all__ = ["LastingProducer", "Outgoing"]

_CLOSE_S: Final = 1.0


class Outgoing(NamedTuple):
    """A record on its way."""

    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int | None = None
    """None: by its key."""


class LastingProducer:
    """Acks from all replicas. Raises aiokafka's errors.

    aiokafka numbers a batch when it takes it up. One that fails for good, as where its partition has had
    no leader for too long, leaves a gap behind which Kafka refuses everything from that producer, for ever.
    """

    def __init__(self, settings: KafkaSettings, **options: Any) -> None:
        """`options` are AIOKafkaProducer's own."""
        self._settings = settings
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._is_open = False

    async def open(self) -> None:
        """Connect."""
        producer = AIOKafkaProducer(
            **connection_options(self._settings),
            acks="all",
            enable_idempotence=True,
            **self._options,
        )
        async with stop_on_failure(producer.stop):
            await producer.start()
        self._producer = producer
        self._is_open = True

    async def partitions_for(self, topic: str) -> set[int]:
        """The topic's partitions as the cluster told last. Raises as `send`."""
        producer = await self._opened()
        found: set[int] = await producer.partitions_for(topic)
        return found

    async def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Returns when every one is acknowledged. Raises TransientError where it is not open."""
        producer = await self._opened()
        try:
            sent = [
                await producer.send(
                    topic, one.value, one.key, partition=one.partition, headers=list(one.headers)
                )
                for one in records
            ]
            await asyncio.gather(*sent)
        except errors.KafkaError:
            self._producer = None
            await close_quietly(producer.stop, _CLOSE_S)
            raise

    async def _opened(self) -> AIOKafkaProducer:
        if not self._is_open:
            raise TransientError("not connected to Kafka")
        if self._producer is None:
            await self.open()
        assert self._producer is not None
        return self._producer

    async def close(self) -> None:
        """Release what is open."""
        producer, self._producer, self._is_open = self._producer, None, False
        if producer is not None:
            await close_quietly(producer.stop)
