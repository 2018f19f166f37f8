"""The ledger's topic: compacted, so that the newest entry of every key stays."""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ports import KeptAccounts, Partition
from spanferry_worker.services.kafka_admin import TopicPlan, ensure_topic
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    kafka_border,
    stop_on_failure,
)
from spanferry_worker.services.kafka_scan import open_scan, partition_count
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Entry, Kept, read_entry

__all__ = ["KafkaLedger", "read_kept"]


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
            await ensure_topic(
                kafka,
                self._topic,
                lambda traces: TopicPlan.for_ledger(self._topic, traces.replication_factor),
                what="for the ledger",
                remedy=", or set ledger.enabled=false",
            )
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
    count = await partition_count(settings, topic)
    if count is None:
        raise FatalError(
            f"the ledger's topic {topic} does not exist, or this user may not see it. A worker "
            "makes it when it starts, and so does `spanferry topics create`"
        )
    newest: dict[tuple[int, bytes], bytes | None] = {}
    async with open_scan(settings, topic, count) as scan:
        async for record in scan.records():
            if record.key is not None:
                newest[record.partition, record.key] = record.value
        ends = await scan.ends(partitions)
    kept = (read_entry(value) for value in newest.values())
    return [one for one in kept if one is not None], ends
