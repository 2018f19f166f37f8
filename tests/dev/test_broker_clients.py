"""The embedded broker as aiokafka meets it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from spanferry_worker.dev.broker import EmbeddedBroker

TOPIC = "t"
PARTITIONS = 8


@asynccontextmanager
async def producing(broker: EmbeddedBroker) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        enable_idempotence=True,
        compression_type="zstd",
        max_request_size=4_000_000,
    )
    async with producer:
        yield producer


def consumer(broker: EmbeddedBroker, instance: str | None = None) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=broker.bootstrap_servers,
        group_id="g",
        group_instance_id=instance,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6_000,
        heartbeat_interval_ms=200,
    )


async def take(source: AIOKafkaConsumer, count: int) -> list[bytes]:
    """The keys of the next `count` records at least."""
    keys: list[bytes] = []
    async with asyncio.timeout(100):
        while len(keys) < count:
            for records in (await source.getmany(timeout_ms=200)).values():
                keys += [record.key for record in records]
    return keys


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as embedded:
        embedded.create_topic(TOPIC, PARTITIONS)
        yield embedded


@pytest.mark.both_loops
async def test_every_record_comes_back_with_key_value_and_headers(broker: EmbeddedBroker) -> None:
    sent = {os.urandom(16): os.urandom(size) for size in (0, 10, 1_000, 300_000) * 25}
    async with producing(broker) as producer, consumer(broker) as source:
        for key, value in sent.items():
            await producer.send(TOPIC, value, key=key, headers=[("h", key)])
        received: dict[bytes, bytes] = {}
        async with asyncio.timeout(100):
            while len(received) < len(sent):
                for records in (await source.getmany(timeout_ms=200)).values():
                    for record in records:
                        assert record.headers == (("h", record.key),)
                        received[record.key] = record.value
    assert received == sent


async def test_a_killed_consumers_records_go_to_the_next_from_the_committed_offset(
    broker: EmbeddedBroker,
) -> None:
    keys = [os.urandom(16) for _ in range(40)]
    async with producing(broker) as producer:
        for key in keys[:20]:
            await producer.send_and_wait(TOPIC, b"", key=key)
        first = consumer(broker, instance="same")
        await first.start()
        assert sorted(await take(first, 20)) == sorted(keys[:20])
        await first.commit()
        for key in keys[20:]:
            await producer.send_and_wait(TOPIC, b"", key=key)
        await take(first, 20)
        await first.stop()
    async with consumer(broker, instance="same") as second:
        assert sorted(await take(second, 20)) == sorted(keys[20:])
        assert await second.committed(TopicPartition(TOPIC, 0)) is not None


async def test_two_consumers_share_the_partitions_and_one_takes_over(
    broker: EmbeddedBroker,
) -> None:
    async with consumer(broker) as first:
        polling = asyncio.ensure_future(take(first, 1))
        second = consumer(broker)
        async with asyncio.timeout(100):
            await second.start()
            assert len(first.assignment()) == len(second.assignment()) == PARTITIONS // 2
            await second.stop()
        for _ in range(400):
            if len(first.assignment()) == PARTITIONS:
                break
            await asyncio.sleep(0.05)
        assert len(first.assignment()) == PARTITIONS
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)


async def test_what_admin_clients_ask(broker: EmbeddedBroker) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        limit = {"max.message.bytes": "2000000"}
        await admin.create_topics([NewTopic("new", 3, 1, topic_configs=limit)])
        await admin.create_partitions({"new": NewPartitions(5)})
        (topic,) = await admin.describe_topics(["new"])
        assert len(topic["partitions"]) == 5
        wanted = ConfigResource(ConfigResourceType.TOPIC, "new", configs={"max.message.bytes": ""})
        (response,) = await admin.describe_configs([wanted])
        assert response.resources[0][4][0][:2] == ("max.message.bytes", "2000000")
        async with consumer(broker):
            (described,) = await admin.describe_consumer_groups(["g", "nobody"])
            states = {group[1]: (group[2], len(group[5])) for group in described.groups}
            assert states == {"g": ("Stable", 1), "nobody": ("Dead", 0)}
            assert await admin.list_consumer_groups() == [("g", "consumer")]
    finally:
        await admin.close()


async def test_offsets_by_time_and_beyond_the_end(broker: EmbeddedBroker) -> None:
    place = TopicPartition(TOPIC, 0)
    async with producing(broker) as producer, consumer(broker) as source:
        for timestamp_ms in (1_000, 2_000):
            await producer.send_and_wait(TOPIC, b"x", partition=0, timestamp_ms=timestamp_ms)
        found = await source.offsets_for_times({place: 1_500})
        assert found[place].offset == 1
        assert await source.end_offsets([place]) == {place: 2}
        assert await source.beginning_offsets([place]) == {place: 0}
        source.seek(place, 99)
        await take_none(source)
        assert await source.position(place) == 2


async def take_none(source: AIOKafkaConsumer) -> None:
    """Poll once: an offset that does not exist is reset to the earliest, and read from there."""
    records = await source.getmany(timeout_ms=2_000)
    assert sum(map(len, records.values())) == 2


async def test_a_record_above_the_topics_limit_is_refused(broker: EmbeddedBroker) -> None:
    broker.create_topic("small", 1, {"max.message.bytes": "1000"})
    async with producing(broker) as producer:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait("small", os.urandom(2_000))


async def test_stopped_it_answers_nobody(broker: EmbeddedBroker) -> None:
    await broker.stop()
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    with pytest.raises(KafkaConnectionError):
        await producer.start()
    await producer.stop()
