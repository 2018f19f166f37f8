"""Questions to Kafka, answered as plain facts. Judging them is kafka_checks' part."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from msgspec import Struct

from spanferry_worker.doctor.reach import Address
from spanferry_worker.services.kafka_client import close_quietly, connection_options
from spanferry_worker.settings import KafkaSettings

__all__ = [
    "KAFKA_S",
    "ClusterFacts",
    "GroupFacts",
    "Handshake",
    "TopicFacts",
    "ask_cluster",
    "client_options",
    "log_ends",
    "shake_hands",
]

KAFKA_S: Final = 30.0
"""For everything that Kafka is asked at once."""


class Handshake(Struct, frozen=True):
    """How one broker took our first words: `error` is the exception's class name and its text."""

    address: Address
    error: tuple[str, str] | None = None


class TopicFacts(Struct, frozen=True):
    """A topic as it is. `config` is empty where the broker does not tell."""

    name: str
    partitions: int = 0
    leaderless: int = 0
    config: Mapping[str, str] = {}


class GroupFacts(Struct, frozen=True):
    """The workers' consumer group, with offsets by partition of the traces' topic."""

    group_id: str
    state: str = "Dead"
    members: int = 0
    committed: Mapping[int, int] = {}
    start: Mapping[int, int] = {}
    end: Mapping[int, int] = {}


class ClusterFacts(Struct, frozen=True):
    """What the cluster says of itself. A topic that is not there is None."""

    nodes: list[Address]
    topic: TopicFacts | None
    dead_letters: TopicFacts | None
    dead_letters_name: str
    group: GroupFacts
    ledger: TopicFacts | None = None


def client_options(settings: KafkaSettings, timeout_s: float) -> dict[str, Any]:
    """aiokafka's connection arguments, more impatient than a worker's. Raises SettingsError."""
    options = connection_options(settings)
    return options | {"client_id": "spanferry-doctor", "request_timeout_ms": int(timeout_s * 1000)}


async def shake_hands(address: Address, options: Mapping[str, Any]) -> Handshake:
    """Connect, encrypt and sign in as the options say. Never raises what a broker can cause."""
    own = {key: value for key, value in options.items() if key != "bootstrap_servers"}
    connection = AIOKafkaConnection(address.host, address.port, **own)
    try:
        await connection.connect()
    except (KafkaError, OSError, ValueError) as error:
        return Handshake(address, (type(error).__name__, str(error)))
    finally:
        connection.close()
    return Handshake(address)


async def ask_cluster(
    options: Mapping[str, Any], topic: str, dead_letters: str, group_id: str, ledger: str = ""
) -> ClusterFacts:
    """Everything at once. Raises KafkaError or OSError where the cluster does not answer."""
    async with _admin(options) as admin:
        cluster = await admin.describe_cluster()
        nodes = [Address(node["host"], node["port"]) for node in cluster["brokers"]]
        described = {each["topic"]: each for each in await admin.describe_topics()}
        traces = await _topic(admin, topic, described.get(topic))
        letters = await _topic(admin, dead_letters, described.get(dead_letters))
        accounts = await _topic(admin, ledger, described.get(ledger))
        group = await _group(admin, options, group_id, traces)
    return ClusterFacts(nodes, traces, letters, dead_letters, group, accounts)


@contextlib.asynccontextmanager
async def _admin(options: Mapping[str, Any]) -> AsyncGenerator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**options)
    try:
        await admin.start()
        yield admin
    finally:
        await close_quietly(admin.close)


async def _topic(
    admin: AIOKafkaAdminClient, name: str, described: Mapping[str, Any] | None
) -> TopicFacts | None:
    if described is None or not described["partitions"]:
        return None
    leaderless = sum(each["leader"] < 0 for each in described["partitions"])
    return TopicFacts(name, len(described["partitions"]), leaderless, await _config(admin, name))


async def _config(admin: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    """The topic's settings; empty where we may not ask or the broker cannot answer."""
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    except IncompatibleBrokerVersion:
        return {}
    return {
        entry[0]: entry[1]
        for answer in answers
        for code, _message, _kind, _name, entries in answer.get_item("resources")
        if not code
        for entry in entries
        if entry[1] is not None
    }


async def _group(
    admin: AIOKafkaAdminClient,
    options: Mapping[str, Any],
    group_id: str,
    topic: TopicFacts | None,
) -> GroupFacts:
    answers = await admin.describe_consumer_groups([group_id])
    state, members = "Dead", 0
    for described in answers[0].get_item("groups"):
        state, members = described[2], len(described[5])
    if topic is None:
        return GroupFacts(group_id, state, members)
    offsets = await admin.list_consumer_group_offsets(group_id)
    committed = {
        place.partition: found.offset
        for place, found in offsets.items()
        if place.topic == topic.name and found.offset >= 0
    }
    start, end = await log_ends(options, topic.name, topic.partitions)
    return GroupFacts(group_id, state, members, committed, start, end)


async def log_ends(
    options: Mapping[str, Any], topic: str, partitions: int
) -> tuple[dict[int, int], dict[int, int]]:
    """First and next offset of every partition. Raises KafkaError or OSError."""
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer = AIOKafkaConsumer(**options)
    try:
        await consumer.start()
        start, end = await asyncio.gather(
            consumer.beginning_offsets(places), consumer.end_offsets(places)
        )
    finally:
        await close_quietly(consumer.stop)
    return (
        {place.partition: offset for place, offset in start.items()},
        {place.partition: offset for place, offset in end.items()},
    )
