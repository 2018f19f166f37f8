"""The traces' topic through aiokafka, as a member of the consumer group."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, OffsetMetadataTooLargeError
from aiokafka.structs import OffsetAndMetadata

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Partition, PartitionOwner
from spanferry_worker.services.kafka_admin import describe_topic
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    kafka_border,
    reach_border,
    stop_on_failure,
)
from spanferry_worker.services.kafka_reread import reread
from spanferry_worker.settings import KafkaSettings
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import Position
from spanferry_worker.telemetry import LogEvent

__all__ = ["KafkaLog"]

_log = logging.getLogger("spanferry.kafka")
_QUESTION_S = 10.0
"""How long a question to the broker may take (commit, offsets)."""
_POLL_MARGIN_S = 0.5
"""A poll waits no longer than this beyond its time, though a rebalance is on."""
_FRESH_MS = 5_000
"""An end of partition heard of longer ago than this says nothing."""


class KafkaLog:
    """RecordLog over one AIOKafkaConsumer, made anew at every `open`.

    Offsets start at the earliest, are committed by us alone, and partitions stick to their owners.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._takes_notes = True

    async def open(self, owner: PartitionOwner) -> None:
        """See RecordLog. A missing topic is transient: it may be made while we wait."""
        settings = self._settings
        with reach_border(settings):
            if await describe_topic(settings, settings.topic) is None:
                raise TransientError(
                    f"the topic {settings.topic} does not exist: run `spanferry topics create`"
                )
        consumer = AIOKafkaConsumer(
            **connection_options(settings),
            group_id=settings.group,
            group_instance_id=settings.group_instance_id,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            partition_assignment_strategy=[StickyPartitionAssignor],
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_s * 1000),
            rebalance_timeout_ms=int(settings.rebalance_timeout_s * 1000),
            max_poll_interval_ms=int(settings.poll_interval_max_s * 1000),
            fetch_max_bytes=settings.fetch_bytes_max,
            max_partition_fetch_bytes=settings.partition_fetch_bytes_max,
            fetch_max_wait_ms=int(settings.fetch_wait_s * 1000),
        )
        consumer.subscribe([settings.topic], listener=_Listener(consumer, owner, self._positions))
        with kafka_border(f"join the group {settings.group}"):
            async with stop_on_failure(consumer.stop):
                await consumer.start()
        self._consumer = consumer

    @property
    def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise TransientError("not connected to Kafka")
        return self._consumer

    async def poll(
        self, *, timeout_s: float, records_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """See RecordLog. Empty while a rebalance is on."""
        consumer = self._open
        deadline = asyncio.timeout(timeout_s + _POLL_MARGIN_S)
        try:
            with kafka_border("read records"):
                async with deadline:
                    polled = await consumer.getmany(
                        timeout_ms=int(timeout_s * 1000), max_records=records_max
                    )
        except TransientError:
            # The border cannot tell our own deadline from a time-out within the client.
            if deadline.expired():
                return {}
            raise
        for partition, records in polled.items():
            self._positions[partition] = records[-1].offset + 1
        return {Partition(*partition): records for partition, records in polled.items()}

    def pause(self) -> None:
        """See RecordLog."""
        consumer = self._open
        with kafka_border("pause"):
            consumer.pause(*consumer.assignment())

    def resume(self) -> None:
        """See RecordLog."""
        consumer = self._open
        with kafka_border("resume"):
            consumer.resume(*consumer.paused())

    def caught_up(self, partition: Partition) -> bool:
        """See RecordLog."""
        consumer = self._consumer
        topic_partition = TopicPartition(*partition)
        if consumer is None or topic_partition not in consumer.assignment():
            return False
        end: int | None = consumer.highwater(topic_partition)
        heard_ms: int | None = consumer.last_poll_timestamp(topic_partition)
        if end is None or heard_ms is None:
            return False
        fresh = time.time_ns() // 1_000_000 - heard_ms < _FRESH_MS
        return fresh and self._positions.get(topic_partition, 0) >= end

    async def lag(self) -> Mapping[Partition, int]:
        """See RecordLog."""
        consumer = self._open
        with kafka_border("ask how much waits"):
            async with asyncio.timeout(_QUESTION_S):
                own = sorted(consumer.assignment())
                if not own:
                    return {}
                ends: Mapping[TopicPartition, int] = await consumer.end_offsets(own)
                for partition in own:
                    # Past records that we are never given, as a transaction's markers are.
                    position = await consumer.position(partition)
                    self._positions[partition] = position
        return {Partition(*tp): max(0, end - self._positions[tp]) for tp, end in ends.items()}

    async def commit(
        self, offsets: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None
    ) -> bool:
        """See RecordLog. A broker that takes no notes gets none.

        Nothing is sent by who is out of the group: a broker takes offsets of a member without a generation
        where no other is left, though those who were there meanwhile have committed more.
        """
        consumer = self._open
        if not _is_member(consumer):
            return False
        noted = notes if notes is not None and self._takes_notes else {}
        wanted = {
            TopicPartition(*partition): (offset, noted.get(partition, ""))
            for partition, offset in offsets.items()
        }
        with kafka_border("commit"):
            try:
                async with asyncio.timeout(_QUESTION_S):
                    await consumer.commit(wanted)
            except (CommitFailedError, IllegalStateError):
                return False
            except OffsetMetadataTooLargeError:
                if not noted:
                    raise
                self._takes_notes = False
                _log.warning(
                    "Kafka takes no notes beside offsets: what is decided out of order is written again "
                    "after a rebalance. Raise offset.metadata.max.bytes of the brokers to 4096",
                    extra=LogEvent.COMMIT_UNNOTED(),
                )
                return await self.commit(offsets)
        return True

    async def read(self, positions: Sequence[Position]) -> list[Record]:
        """See RecordLog."""
        with kafka_border("read records again"):
            return await reread(self._settings, positions)

    async def close(self) -> None:
        """See RecordLog."""
        consumer, self._consumer = self._consumer, None
        self._positions.clear()
        if consumer is not None:
            await close_quietly(consumer.stop)


class _Listener(ConsumerRebalanceListener):
    """Tells the owner, on aiokafka's own coordination task."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        owner: PartitionOwner,
        positions: dict[TopicPartition, int],
    ) -> None:
        self._consumer = consumer
        self._owner = owner
        self._positions = positions

    # aiokafka awaits coroutines here, though its base class shows plain methods.
    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: set[TopicPartition]
    ) -> None:
        """Before the rejoin."""
        await self._owner.revoked(frozenset(Partition(*each) for each in revoked))

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: set[TopicPartition]
    ) -> None:
        """After the rejoin. The owner must know before anything is waited for: records may come."""
        self._positions.clear()
        self._owner.assigned(frozenset(Partition(*each) for each in assigned))
        resumed: dict[Partition, int] = {}
        notes: dict[Partition, str] = {}
        try:
            with kafka_border("ask for the committed offsets"):
                async with asyncio.timeout(_QUESTION_S):
                    for place, committed in (await self._committed(assigned)).items():
                        resumed[Partition(*place)] = committed.offset
                        notes[Partition(*place)] = committed.metadata
                        self._positions.setdefault(place, committed.offset)
        except TransientError as error:
            _log.warning(
                "committed offsets unknown: %s", error, extra=LogEvent.CONSUME_OFFSETS_UNKNOWN()
            )
        self._owner.resumed(resumed, notes)

    async def _committed(
        self, partitions: set[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """As AIOKafkaConsumer.committed, which keeps the metadata to itself."""
        ask = _coordinator(self._consumer).fetch_committed_offsets
        found: dict[TopicPartition, OffsetAndMetadata] = await ask(partitions) if partitions else {}
        return {place: one for place, one in found.items() if one.offset >= 0}


def _coordinator(consumer: AIOKafkaConsumer) -> Any:
    return getattr(consumer, "_coordinator")  # noqa: B009  it is theirs


def _is_member(consumer: AIOKafkaConsumer) -> bool:
    """Whether the group knows us, as far as we know."""
    generation: int = _coordinator(consumer).generation
    return generation >= 0
