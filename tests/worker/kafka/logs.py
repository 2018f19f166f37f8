"""The record logs that keep one contract: in memory, on the embedded broker, on Apache Kafka."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.ports import Partition, RecordLog
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka import KafkaLog
from spanferry_worker.settings import KafkaSettings, Settings
from spanferry_worker.testing import GroupLog, MemoryBroker, MemoryGroup, MemoryLog

PARTITIONS = 2

Headers = Sequence[tuple[str, bytes]]


class Owner:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.partitions: set[Partition] = set()
        self.resumed_partitions: set[Partition] = set()
        self.notes: dict[Partition, str] = {}
        self.before_revoked: Callable[[], Awaitable[object]] | None = None
        self.shares = 0
        """How often partitions were dealt out."""

    def assigned(self, partitions: frozenset[Partition]) -> None:
        self.partitions = set(partitions)
        self.shares += 1

    def resumed(self, committed: Mapping[Partition, int], notes: Mapping[Partition, str]) -> None:
        self.resumed_partitions |= committed.keys()
        self.notes |= notes

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        if partitions and self.before_revoked is not None:
            await self.before_revoked()
        self.partitions -= partitions


class Place(NamedTuple):
    """Somewhere to produce to, and to consume from as a member of one group."""

    topic: str
    produce: Callable[[int, bytes, Headers], Awaitable[int]]
    log: Callable[..., RecordLog]
    """Another member. On a broker its settings may differ: `log(heartbeat_s=1.0)`."""


def kafka_settings(bootstrap_servers: str, topic: str = "traces", **changes) -> Settings:
    """A group and a topic of its own; impatient."""
    values = {
        "bootstrap_servers": bootstrap_servers,
        "topic": topic,
        "group": f"group-{uuid.uuid4().hex[:8]}",
        "session_timeout_s": 9.0,
        "heartbeat_s": 0.3,
        "rebalance_timeout_s": 30.0,
        "fetch_wait_s": 0.1,
    }
    return Settings(kafka=KafkaSettings(**(values | changes)))


@contextlib.asynccontextmanager
async def memory_place(*, grouped: bool = False) -> AsyncIterator[Place]:
    """`grouped`: with heartbeats, sessions and generations, as the simulation has it."""
    broker = MemoryBroker(SystemClock(), topic="traces", partitions=PARTITIONS)

    async def produce(partition: int, value: bytes, headers: Headers) -> int:
        return broker.produce(value, key=b"key", headers=headers, partition=partition).offset

    group = MemoryGroup(broker, session_s=9.0, rebalance_s=5.0)

    def log() -> RecordLog:
        return GroupLog(group, heartbeat_s=0.05) if grouped else MemoryLog(broker)

    yield Place("traces", produce, log)


@contextlib.asynccontextmanager
async def kafka_place(bootstrap_servers: str, topic: str) -> AsyncIterator[Place]:
    settings = kafka_settings(bootstrap_servers, topic).kafka
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=0)
    await producer.start()

    async def produce(partition: int, value: bytes, headers: Headers) -> int:
        sent = await producer.send_and_wait(
            topic, value, key=b"key", partition=partition, headers=list(headers)
        )
        return sent.offset

    try:
        yield Place(
            topic, produce, lambda **changes: KafkaLog(msgspec.structs.replace(settings, **changes))
        )
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def embedded_place() -> AsyncIterator[Place]:
    async with EmbeddedBroker() as broker:
        broker.create_topic("traces", PARTITIONS)
        async with kafka_place(broker.bootstrap_servers, "traces") as place:
            yield place


async def topic_on(
    stack: contextlib.AsyncExitStack, request: pytest.FixtureRequest, partitions: int
) -> tuple[str, str]:
    """Bootstrap servers and a topic: on Apache Kafka where `request.param` is that, else embedded."""
    topic = f"traces-{uuid.uuid4().hex[:8]}"
    if request.param == "embedded":
        embedded = await stack.enter_async_context(EmbeddedBroker())
        embedded.create_topic(topic, partitions)
        return embedded.bootstrap_servers, topic
    server = request.getfixturevalue("kafka")
    await asyncio.to_thread(server.create_topic, topic, partitions)
    return server.bootstrap_servers, topic


@contextlib.asynccontextmanager
async def opened(log: RecordLog, owner: Owner) -> AsyncIterator[RecordLog]:
    """Join, and leave at the end."""
    await log.open(owner)
    try:
        yield log
    finally:
        await log.close()


async def poll_until(log: RecordLog, count: int, *, timeout_s: float = 90.0) -> list:
    """That many records, in the order they came."""
    records: list = []
    async with asyncio.timeout(timeout_s):
        while len(records) < count:
            for polled in (await log.poll(timeout_s=0.2, records_max=10)).values():
                records += polled
    return records


async def read_topic(bootstrap_servers: str, topic: str, count: int) -> list:
    """The first records of a topic, apart from any group."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(100):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()
