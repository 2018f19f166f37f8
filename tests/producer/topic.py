"""Reading a topic to its end, as the worker would see it."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from spanferry_schemas import Chunk, Fragment, Rejection, Report, decode, join_chunks

__all__ = ["read_fragments", "read_numbered", "read_topic"]


def read_topic(bootstrap_servers: str, topic: str) -> list[ConsumerRecord]:
    """Every record of the topic, partition by partition in order."""
    return asyncio.run(_read(bootstrap_servers, topic))


def read_numbered(bootstrap_servers: str, topic: str) -> list[ConsumerRecord]:
    """The same without producers' reports, which have no number and belong to no trace."""
    records = read_topic(bootstrap_servers, topic)
    return [record for record in records if not isinstance(decode(record.value), Report)]


def read_fragments(bootstrap_servers: str, topic: str) -> list[Fragment]:
    """Every fragment, chunks joined. Fails on anything that does not decode."""
    groups: dict[bytes, list[Chunk]] = {}
    fragments: list[Fragment] = []
    for record in read_topic(bootstrap_servers, topic):
        event = decode(record.value)
        while isinstance(event, Chunk):
            group = groups.setdefault(event.group_id, [])
            group.append(event)
            value = join_chunks(group)
            event = decode(value) if value else None
        assert not isinstance(event, Rejection), event
        if isinstance(event, Fragment):
            fragments.append(event)
    return fragments


async def _read(bootstrap_servers: str, topic: str) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        enable_auto_commit=False,
        max_partition_fetch_bytes=2**24,
    )
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        found: dict[TopicPartition, list[ConsumerRecord]] = {one: [] for one in partitions}
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for one, records in (await consumer.getmany(timeout_ms=200)).items():
                found[one] += records
        return [record for one in partitions for record in found[one]]
    finally:
        await consumer.stop()
