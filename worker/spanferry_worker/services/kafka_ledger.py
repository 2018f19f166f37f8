"""The ledger's topic: compacted, so that the newest entry of every key stays."""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ports import KeptAccounts, Partition
from spanferry_worker.services.kafka_admin import TopicPlan, create_topic, describe_topic
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    kafka_border,
    stop_on_failure,
)
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Entry, Kept, read_entry

__all__ = ["KafkaLedger", "read_kept"]

_POLL_MS: Final = 500
_STILL_S: Final = 30.0


class KafkaLedger:
    """LedgerLog over one idempotent producer, and a consumer of its own for every look."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.ledger_topic
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """See LedgerLog."""
        kafka = self._settings.kafka
        with kafka_border(f"reach Kafka at {kafka.bootstrap_servers}"):
            if await describe_topic(kafka, self._topic) is None:
                await self._create()
        producer = AIOKafkaProducer(
            **connection_options(kafka),
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            max_request_size=4 * 1024 * 1024,
        )
        with kafka_border("start the producer of the ledger"):
            async with stop_on_failure(producer.stop):
                await producer.start()
        self._producer = producer

    async def _create(self) -> None:
        kafka = self._settings.kafka
        traces = await describe_topic(kafka, kafka.topic)
        if traces is None:
            raise TransientError(f"the topic {kafka.topic} does not exist")
        plan = TopicPlan.for_ledger(self._topic, traces.replication_factor)
        refusal = await create_topic(kafka, plan)
        if refusal is not None:
            raise FatalError(
                f"the ledger's topic {self._topic} does not exist and cannot be made: {refusal}. Run "
                "`spanferry topics create` with rights to create topics, or set ledger.enabled=false"
            )

    async def load(self, partitions: Sequence[Partition]) -> KeptAccounts:
        """See LedgerLog. Reads the whole topic, which compaction keeps small."""
        kept, ends = await read_kept(self._settings, partitions)
        return KeptAccounts(kept, ends)

    async def save(self, entries: Sequence[Entry]) -> None:
        """See LedgerLog."""
        producer = self._producer
        if producer is None:
            raise TransientError("not connected to Kafka")
        with kafka_border(f"write to {self._topic} (by ACLs this needs Describe and Write on it)"):
            sent = [await producer.send(self._topic, entry.value, entry.key) for entry in entries]
            await asyncio.gather(*sent)

    async def close(self) -> None:
        """See LedgerLog."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_quietly(producer.stop)


async def read_kept(
    settings: Settings, partitions: Sequence[Partition]
) -> tuple[list[Kept], dict[Partition, int]]:
    """The newest entry of every key, and one past the last record of each of these partitions.

    Raises TransientError, also where Kafka does not deliver, and FatalError.
    """
    topic = settings.ledger_topic
    with kafka_border(f"read {topic} (by ACLs this needs Describe and Read on it)"):
        state = await describe_topic(settings.kafka, topic)
        if state is None:
            raise FatalError(
                f"the ledger's topic {topic} does not exist, or this user may not see it. A worker "
                "makes it when it starts, and so does `spanferry topics create`"
            )
        consumer = AIOKafkaConsumer(
            **connection_options(settings.kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        async with stop_on_failure(consumer.stop):
            await consumer.start()
            places = [TopicPartition(topic, number) for number in range(state.partitions)]
            newest = await _newest(consumer, places)
            asked = [TopicPartition(*each) for each in partitions]
            ends = await consumer.end_offsets(asked) if asked else {}
    await close_quietly(consumer.stop)
    kept = (read_entry(value) for value in newest.values())
    return (
        [one for one in kept if one is not None],
        {Partition(*place): end for place, end in ends.items()},
    )


async def _newest(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]
) -> dict[tuple[int, bytes], bytes | None]:
    consumer.assign(list(places))
    ends = await consumer.end_offsets(list(places))
    for place, begin in (await consumer.beginning_offsets(list(places))).items():
        consumer.seek(place, begin)
    found: dict[tuple[int, bytes], bytes | None] = {}
    loop = asyncio.get_running_loop()
    moved_s = loop.time()
    at: dict[TopicPartition, int] = {}
    while True:
        before = dict(at)
        for place in places:
            at[place] = await consumer.position(place)
        if all(at[place] >= ends[place] for place in places):
            return found
        if at != before:
            moved_s = loop.time()
        elif loop.time() - moved_s > _STILL_S:
            raise TransientError("Kafka does not deliver the ledger")
        for place, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
            for record in records:
                if record.key is not None:
                    found[place.partition, record.key] = record.value
