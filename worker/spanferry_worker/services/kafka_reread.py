"""Reads single records again by their positions, with a consumer of its own outside of the group."""

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from spanferry_worker.errors import TransientError
from spanferry_worker.services.kafka_client import lone_consumer
from spanferry_worker.settings import KafkaSettings
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import Position

__all__ = ["reread"]

_READ_S = 30.0
_POLL_MS = 1_000
_SKIP_MAX = 500
"""Records between two wanted ones that are read over; across a wider gap we seek."""


async def reread(settings: KafkaSettings, positions: Sequence[Position]) -> list[Record]:
    """The records at these positions, by partition and offset; removed ones are missing.

    Raises TransientError where Kafka does not deliver in time, and aiokafka's own errors.
    """
    wanted: dict[TopicPartition, list[int]] = {}
    for topic, number, offset in positions:
        wanted.setdefault(TopicPartition(topic, number), []).append(offset)
    consumer = lone_consumer(settings)
    consumer.assign(list(wanted))
    found: list[Record] = []
    try:
        async with asyncio.timeout(_READ_S):
            await consumer.start()
            # A topic that was made anew may have fewer partitions: aiokafka would look for them for ever.
            wanted = {place: some for place, some in wanted.items() if _exists(consumer, place)}
            if not wanted:
                return found
            consumer.assign(list(wanted))
            begins: Mapping[TopicPartition, int] = await consumer.beginning_offsets(list(wanted))
            ends: Mapping[TopicPartition, int] = await consumer.end_offsets(list(wanted))
            for partition, offsets in wanted.items():
                present = [
                    o for o in sorted(set(offsets)) if begins[partition] <= o < ends[partition]
                ]
                found += await _read_partition(consumer, partition, present)
    except TimeoutError:
        raise TransientError("Kafka does not deliver records that were read before") from None
    finally:
        await consumer.stop()
    return found


def _exists(consumer: AIOKafkaConsumer, place: TopicPartition) -> bool:
    return place.partition in (consumer.partitions_for_topic(place.topic) or ())


async def _read_partition(
    consumer: AIOKafkaConsumer, partition: TopicPartition, offsets: Sequence[int]
) -> list[Record]:
    """The records at rising offsets of one partition."""
    found: list[Record] = []
    at = -_SKIP_MAX
    left = list(reversed(offsets))
    while left:
        if not 0 <= left[-1] - at <= _SKIP_MAX:
            at = left[-1]
            consumer.seek(partition, at)
        polled = await consumer.getmany(partition, timeout_ms=_POLL_MS, max_records=100)
        for record in polled.get(partition, ()):
            at = record.offset + 1
            while left and left[-1] < record.offset:
                left.pop()  # removed by compaction
            if left and left[-1] == record.offset:
                found.append(record)
                left.pop()
    return found
