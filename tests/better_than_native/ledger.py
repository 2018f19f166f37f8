"""Where every trace of a run is: in the store, or in Kafka behind what the worker has committed."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from spanferry_schemas import Fragment, decode
from tests.better_than_native.account import Stored
from tests.producer.topic import read_topic

__all__ = ["Ledger", "ledger_of"]


class Ledger(NamedTuple):
    """Trace ids. `made` is what Kafka has acknowledged, each with its spans and its end."""

    made: set[str]
    stored: set[str]
    to_be_stored: set[str]

    @property
    def lost(self) -> set[str]:
        return self.made - self.stored - self.to_be_stored


def ledger_of(
    bootstrap_servers: str, topic: str, group: str, stored: Iterable[Stored], *, spans: int
) -> Ledger:
    """The account of a topic with one record a trace, once its worker has stopped."""
    records = read_topic(bootstrap_servers, topic)
    committed = asyncio.run(_committed(bootstrap_servers, topic, group))
    return Ledger(
        made={trace_id_of(one) for one in records if is_whole(one, spans)},
        stored={one.trace_id for one in stored if one.spans == spans},
        to_be_stored={
            trace_id_of(one) for one in records if one.offset >= committed[one.partition]
        },
    )


def trace_id_of(record: ConsumerRecord) -> str:
    return f"tr-{record.key.hex()}"


def is_whole(record: ConsumerRecord, spans: int) -> bool:
    event = decode(record.value)
    return isinstance(event, Fragment) and len(event.spans) == spans and event.end is not None


async def _committed(bootstrap_servers: str, topic: str, group: str) -> dict[int, int]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        numbers = consumer.partitions_for_topic(topic) or ()
        consumer.assign([TopicPartition(topic, number) for number in numbers])
        return {
            number: await consumer.committed(TopicPartition(topic, number)) or 0
            for number in numbers
        }
    finally:
        await consumer.stop()
