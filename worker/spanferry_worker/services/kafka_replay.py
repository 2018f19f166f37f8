"""Sends copies of dead letters to a traces' topic, and writes receipts for what was acknowledged."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from spanferry_worker.errors import PoisonError, WorkerError
from spanferry_worker.services.kafka_client import (
    close_quietly,
    connection_options,
    kafka_border,
    reach_border,
    stop_on_failure,
)
from spanferry_worker.services.kafka_dead_letters import REQUEST_BYTES_MAX
from spanferry_worker.services.kafka_scan import partition_of
from spanferry_worker.settings import Settings
from spanferry_worker.stages.copies import Copier
from spanferry_worker.stages.dead_letter import Letter
from spanferry_worker.stages.receipts import Receipt, write_receipt

__all__ = ["KafkaReplay", "open_replay"]

_Sent = asyncio.Future[object]


class KafkaReplay:
    """A producer for one replay. Made by `open_replay`."""

    def __init__(
        self,
        settings: Settings,
        producer: AIOKafkaProducer,
        copier: Copier,
        partitions: Mapping[str, int],
    ) -> None:
        self._topic = settings.dead_letter_topic
        self._producer = producer
        self._copier = copier
        self._partitions = partitions

    async def send(self, letters: Sequence[tuple[Letter, str]]) -> list[WorkerError | None]:
        """Send each to its topic, in order, and wait for all replicas: for each None or what is wrong.

        PoisonError: that letter can never be sent there. Else nothing more will go through now.
        """
        posted: list[_Sent | WorkerError] = []
        for letter, topic in letters:
            try:
                with _writing(topic):
                    posted.append(await self._post(letter, topic))
            except WorkerError as error:
                posted.append(error)
        return [
            each if isinstance(each, WorkerError) else await _settled(each, topic)
            for each, (_, topic) in zip(posted, letters, strict=True)
        ]

    async def _post(self, letter: Letter, topic: str) -> _Sent:
        count = self._partitions[topic]
        if letter.key is None:
            number = (letter.origin_partition or 0) % count
        else:
            number = partition_of(letter.key, count)
        copy = self._copier.copy(letter, topic, number)
        sent: _Sent = await self._producer.send(
            topic, copy.value, copy.key, partition=number, headers=copy.headers
        )
        return sent

    async def remember(self, partition: int, receipt: Receipt) -> None:
        """Write a receipt into a partition of the dead letters. Raises WorkerError."""
        value, headers = write_receipt(receipt)
        with _writing(self._topic):
            await self._producer.send_and_wait(
                self._topic, value, partition=partition, headers=headers
            )


@contextlib.asynccontextmanager
async def open_replay(
    settings: Settings, copier: Copier, partitions: Mapping[str, int]
) -> AsyncGenerator[KafkaReplay]:
    """Connect. `partitions`: how many each topic has that will be sent to.

    The producer is not idempotent: a record that is refused for its size must not break the numbering
    of those behind it, and one that comes twice is stored once.
    """
    producer = AIOKafkaProducer(
        **connection_options(settings.kafka),
        acks="all",
        compression_type="zstd",
        max_request_size=REQUEST_BYTES_MAX,
    )
    with reach_border(settings.kafka):
        async with stop_on_failure(producer.stop):
            await producer.start()
    try:
        yield KafkaReplay(settings, producer, copier, partitions)
    finally:
        await close_quietly(producer.stop)


async def _settled(sent: _Sent, topic: str) -> WorkerError | None:
    try:
        with _writing(topic):
            await sent
    except WorkerError as error:
        return error
    return None


@contextlib.contextmanager
def _writing(topic: str) -> Generator[None]:
    with kafka_border(f"write to {topic} (by ACLs this needs Describe and Write on it)"):
        try:
            yield
        except MessageSizeTooLargeError as error:
            raise PoisonError(
                f"{topic} refuses a record for its size: raise its max.message.bytes"
            ) from error
