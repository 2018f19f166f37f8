"""The dead letters' topic: original key, value and headers, and beside them why."""

import asyncio
import importlib.metadata
from collections.abc import Sequence
from typing import Final

from aiokafka.errors import MessageSizeTooLargeError

from spanferry_worker.errors import FatalError
from spanferry_worker.ports import DeadLetter
from spanferry_worker.services.kafka_admin import TopicPlan, ensure_topic
from spanferry_worker.services.kafka_client import kafka_border, reach_border
from spanferry_worker.services.kafka_producer import LastingProducer, Outgoing
from spanferry_worker.settings import Settings
from spanferry_worker.stages.dead_letter import letter_headers

__all__ = ["REQUEST_BYTES_MAX", "VERSION", "KafkaDeadLetters"]

_SEND_S = 60.0
REQUEST_BYTES_MAX: Final = 64 * 1024 * 1024
"""Above any record that Kafka let in; its own limit is the topic's."""
VERSION: Final = importlib.metadata.version("spanferry")
"""Ours, as every dead letter says it."""


class KafkaDeadLetters:
    """DeadLetterLog over an idempotent producer with acks from all replicas."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.dead_letter_topic
        self._producer = LastingProducer(
            settings.kafka, compression_type="zstd", max_request_size=REQUEST_BYTES_MAX
        )

    async def open(self) -> None:
        """See DeadLetterLog."""
        kafka = self._settings.kafka
        with reach_border(kafka):
            await ensure_topic(
                kafka,
                self._topic,
                lambda traces: TopicPlan.for_dead_letters(self._topic, traces),
                what="for dead letters",
            )
        with kafka_border("start the producer of the dead letters"):
            await self._producer.open()

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """See DeadLetterLog."""
        with kafka_border(f"write to {self._topic}"):
            async with asyncio.timeout(_SEND_S):
                try:
                    await self._producer.send(self._topic, [*map(self._outgoing, letters)])
                except MessageSizeTooLargeError as error:
                    raise FatalError(
                        f"{self._topic} refuses a record for its size: raise its max.message.bytes "
                        f"above that of {self._settings.kafka.topic}"
                    ) from error

    def _outgoing(self, letter: DeadLetter) -> Outgoing:
        record = letter.record
        about = {
            "reason": letter.reason,
            "message": letter.message,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp,
            "group": self._settings.kafka.group,
            "failed_at_ms": letter.failed_at_ms,
            "version": VERSION,
        }
        headers = letter_headers(record.headers, about)
        # Kafka's clients refuse a record without key and value; an empty value says the same.
        value = b"" if record.value is None and record.key is None else record.value
        return Outgoing(value, record.key, headers)

    async def close(self) -> None:
        """See DeadLetterLog."""
        await self._producer.close()
