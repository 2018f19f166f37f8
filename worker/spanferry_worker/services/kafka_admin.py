"""Topics: what they are like, whether that will do, and making them."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Self

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, TopicAlreadyExistsError, for_code
from msgspec import Struct

from spanferry_schemas.limits import RECORD_BYTES_MAX
from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.services.kafka_client import close_quietly, connection_options
from spanferry_worker.settings import KafkaSettings

__all__ = [
    "MESSAGE_BYTES_MIN",
    "TopicPlan",
    "TopicState",
    "create_topic",
    "describe_topic",
    "ensure_topic",
    "grow_topic",
    "problems",
]

_COMPACTED: Final[dict[str, int | float | str | None]] = {
    "cleanup.policy": "compact",
    "segment.bytes": 8 * 1024 * 1024,
    "segment.ms": 3_600_000,
    "min.cleanable.dirty.ratio": 0.1,
}

MESSAGE_BYTES_MIN = RECORD_BYTES_MAX + 16_384
"""The smallest `max.message.bytes` that takes the producers' largest record with its headers."""


class TopicState(Struct, frozen=True, kw_only=True):
    """A topic as it is. None where the broker does not say."""

    name: str
    partitions: int
    replication_factor: int
    message_bytes_max: int | None = None
    retention_ms: int | None = None
    cleanup_policy: str | None = None


class TopicPlan(Struct, frozen=True, kw_only=True):
    """A topic as it should be. None and -1 leave it to the broker."""

    name: str
    partitions: int = -1
    replication_factor: int = -1
    message_bytes_max: int | None = None
    retention_ms: int | None = None
    compacted: bool = False

    @classmethod
    def for_ledger(cls, name: str, replication_factor: int) -> Self:
        """One partition that keeps the newest entry of every key, in small segments: only those that
        are closed are compacted, and the whole of it is read when a worker takes over partitions."""
        return cls(name=name, partitions=1, replication_factor=replication_factor, compacted=True)

    @classmethod
    def for_fleet(cls, name: str, replication_factor: int, retention_ms: int | None) -> Self:
        """One partition, for one order of all records; kept as long as traces may be replayed."""
        return cls(
            name=name,
            partitions=1,
            replication_factor=replication_factor,
            retention_ms=retention_ms,
            compacted=True,
        )

    @classmethod
    def for_dropped(cls, name: str, traces: "TopicPlan | TopicState") -> Self:
        """A log for every partition of the traces, kept for as long as they are."""
        return cls(
            name=name,
            partitions=traces.partitions,
            replication_factor=traces.replication_factor,
            retention_ms=traces.retention_ms,
        )

    @classmethod
    def for_dead_letters(cls, name: str, traces: TopicState) -> Self:
        """Like the traces' topic, but with room for the headers that say why."""
        size = traces.message_bytes_max
        return cls(
            name=name,
            partitions=1,
            replication_factor=traces.replication_factor,
            message_bytes_max=None if size is None else size + 65_536,
        )


@contextlib.asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncGenerator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**connection_options(settings))
    try:
        await client.start()
        yield client
    finally:
        await close_quietly(client.close)


async def describe_topic(settings: KafkaSettings, name: str) -> TopicState | None:
    """The topic, or None where there is none; never creates it. Raises aiokafka's errors."""
    async with _admin(settings) as client:
        topics = await client.describe_topics()
        topic = next((each for each in topics if each["topic"] == name), None)
        if topic is None or not topic["partitions"]:
            return None
        configs = await _configs(client, name)
        return TopicState(
            name=name,
            partitions=len(topic["partitions"]),
            replication_factor=min(len(each["replicas"]) for each in topic["partitions"]),
            message_bytes_max=_number(configs.get("max.message.bytes")),
            retention_ms=_number(configs.get("retention.ms")),
            cleanup_policy=configs.get("cleanup.policy"),
        )


async def _configs(client: AIOKafkaAdminClient, name: str) -> dict[str, str | None]:
    """The topic's configuration; empty where the broker does not speak of it."""
    try:
        answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    except IncompatibleBrokerVersion:
        return {}
    return {
        entry[0]: entry[1]
        for answer in answers
        for error_code, _message, _type, _name, entries in _field(answer, "resources")
        if not error_code
        for entry in entries
    }


def _number(text: str | None) -> int | None:
    return int(text) if text else None


async def create_topic(settings: KafkaSettings, plan: TopicPlan) -> str | None:
    """Create the topic; why not, in words, or None where it is there now. Raises aiokafka's errors."""
    wanted: dict[str, int | float | str | None] = {
        "max.message.bytes": plan.message_bytes_max,
        "retention.ms": plan.retention_ms,
    }
    if plan.compacted:
        wanted |= _COMPACTED
        if plan.retention_ms is not None:
            wanted["cleanup.policy"] = "compact,delete"
    by_default = -1 in {plan.partitions, plan.replication_factor}
    topic = NewTopic(
        plan.name,
        plan.partitions,
        plan.replication_factor,
        # aiokafka lets the broker decide (-1) only where an assignment, though empty, is given.
        replica_assignments={} if by_default else None,
        topic_configs={name: str(value) for name, value in wanted.items() if value is not None},
    )
    async with _admin(settings) as client:
        try:
            answer = await client.create_topics([topic])
        except IncompatibleBrokerVersion as error:
            return f"the broker cannot create topics: {error}"
    for _name, code, *message in _field(answer, "topic_errors"):
        kind = for_code(code)
        if code and kind is not TopicAlreadyExistsError:
            return str(message[0]) if message and message[0] else kind.__name__
    return None


async def grow_topic(settings: KafkaSettings, name: str, partitions: int) -> None:
    """Give a topic so many partitions. Raises aiokafka's errors."""
    async with _admin(settings) as client:
        await client.create_partitions({name: NewPartitions(partitions)})


async def ensure_topic(
    settings: KafkaSettings,
    name: str,
    plan: Callable[[TopicState], TopicPlan],
    *,
    what: str,
    remedy: str = "",
) -> None:
    """Create a topic that stands beside the traces' where it is missing, by a plan made from theirs.

    `what` and `remedy` are for messages: what the topic is, and what else than creating it helps. Raises
    TransientError where there are no traces either, FatalError where it is refused, and aiokafka's errors.
    """
    if await describe_topic(settings, name) is not None:
        return
    traces = await describe_topic(settings, settings.topic)
    if traces is None:
        raise TransientError(
            f"the topic {settings.topic} does not exist, nor does {name}: run `spanferry topics create`"
        )
    refusal = await create_topic(settings, plan(traces))
    if refusal is not None:
        raise FatalError(
            f"the topic {what}, {name}, does not exist and cannot be made: {refusal}. Run `spanferry "
            f"topics create` with rights to create topics{remedy}"
        )


def _field(answer: object, name: str) -> Any:
    """A field of an answer whose type aiokafka makes at run time."""
    return getattr(answer, name)


def problems(plan: TopicPlan, state: TopicState) -> list[str]:
    """What is wrong with an existing topic, each with its remedy."""
    found: list[str] = []
    if state.partitions < plan.partitions:
        found.append(
            f"{state.name} has {state.partitions} partitions, {plan.partitions} are wanted: "
            f"kafka-topics.sh --alter --topic {state.name} --partitions {plan.partitions}"
        )
    size, wanted = state.message_bytes_max, plan.message_bytes_max or MESSAGE_BYTES_MIN
    if not plan.compacted and size is not None and size < wanted:
        found.append(
            f"{state.name} takes records up to {size} bytes (max.message.bytes), {wanted} are wanted: "
            f"kafka-configs.sh --alter --entity-type topics --entity-name {state.name} "
            f"--add-config max.message.bytes={wanted}"
        )
    if plan.compacted and "compact" not in (state.cleanup_policy or "compact"):
        found.append(
            f"{state.name} is not compacted (cleanup.policy={state.cleanup_policy}): the account of "
            f"records is lost with its retention: kafka-configs.sh --alter --entity-type topics "
            f"--entity-name {state.name} --add-config cleanup.policy=compact"
        )
    return found
