"""Reading a topic outside of any group: everything once, in order, within its limits."""

import random

from aiokafka import AIOKafkaProducer

from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.services.kafka_scan import Times, open_scan, partition_of
from tests.worker.events import T0_MS
from tests.worker.kafka.logs import kafka_settings

COUNT = 3_000


async def test_partitions_are_merged_by_time():
    """Also where one has far more than may wait for the others, and one has nothing."""
    chance = random.Random(1)
    async with EmbeddedBroker() as broker:
        broker.create_topic("traces", 4)
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=5)
        await producer.start()
        for number in range(COUNT):
            await producer.send(
                "traces",
                b"x" * (5_000 if number < 2_000 else 10),
                partition=0 if number < 2_000 else chance.randrange(3),
                timestamp_ms=T0_MS + number,
            )
        await producer.flush()
        await producer.stop()
        settings = kafka_settings(broker.bootstrap_servers)
        async with open_scan(settings, "traces", 4, merging=True) as scan:
            merged = [record.timestamp - T0_MS async for record in scan.merged()]
            one = {record.partition async for record in scan.records([1])}
        assert merged == list(range(COUNT))
        assert one == {1}
        part = Times(T0_MS + 1_000, T0_MS + 1_500)
        async with open_scan(settings, "traces", 4, part, merging=True) as scan:
            found = [record.timestamp - T0_MS async for record in scan.merged()]
        # The embedded broker finds the batch of a time, Kafka the record.
        assert set(range(1_010, 1_490)) < set(found) < set(range(990, 1_510))


def test_keys_go_where_kafka_puts_them():
    """Murmur2 as Java's client computes it: values of Kafka's own test."""
    assert partition_of(b"21", 100) == (-973932308 & 0x7FFF_FFFF) % 100
    assert partition_of(b"foobar", 7) == (-790332482 & 0x7FFF_FFFF) % 7
