"""The ledger's topic: compacted, so that the newest entry of every key stays."""

from collections.abc import Sequence

from spanferry_worker.errors import FatalError
from spanferry_worker.ports import KeptAccounts, Partition
from spanferry_worker.services.kafka_admin import TopicPlan, ensure_topic
from spanferry_worker.services.kafka_client import kafka_border, reach_border
from spanferry_worker.services.kafka_producer import LastingProducer, Outgoing
from spanferry_worker.services.kafka_scan import open_scan, partition_count
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Entry, Kept, read_entry

__all__ = ["KafkaLedger", "read_kept"]


class KafkaLedger:
    """LedgerLog over an idempotent producer, and a consumer of its own for every look."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.ledger_topic
        self._producer = LastingProducer(
            settings.kafka, compression_type="zstd", max_request_size=4 * 1024 * 1024
        )

    async def open(self) -> None:
        """See LedgerLog."""
        kafka = self._settings.kafka
        with reach_border(kafka):
            await ensure_topic(
                kafka,
                self._topic,
                lambda traces: TopicPlan.for_ledger(self._topic, traces.replication_factor),
                what="for the ledger",
                remedy=", or set ledger.enabled=false",
            )
        with kafka_border("start the producer of the ledger"):
            await self._producer.open()

    async def load(self, partitions: Sequence[Partition]) -> KeptAccounts:
        """See LedgerLog. Reads the whole topic, which compaction keeps small."""
        kept, ends = await read_kept(self._settings, partitions)
        return KeptAccounts(kept, ends)

    async def save(self, entries: Sequence[Entry]) -> None:
        """See LedgerLog."""
        with kafka_border(f"write to {self._topic} (by ACLs this needs Describe and Write on it)"):
            await self._producer.send(
                self._topic, [Outgoing(entry.value, entry.key) for entry in entries]
            )

    async def close(self) -> None:
        """See LedgerLog."""
        await self._producer.close()


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
