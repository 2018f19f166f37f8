"""Sends letters back in batches: send, wait for every acknowledgement, THEN write the receipt."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from spanferry_worker.dlq.survey import Kind, Survey
from spanferry_worker.errors import FatalError, PoisonError, WorkerError
from spanferry_worker.ports import Clock
from spanferry_worker.services.kafka_dead_letters import VERSION
from spanferry_worker.services.kafka_letters import Window, open_letters, partition_count
from spanferry_worker.services.kafka_replay import KafkaReplay, open_replay
from spanferry_worker.settings import Settings
from spanferry_worker.stages.copies import Copier
from spanferry_worker.stages.dead_letter import Letter, read_letter
from spanferry_worker.stages.receipts import Offsets, Receipt, is_receipt

__all__ = ["Account", "Order", "replay", "target_partitions"]

_BATCH_LETTERS: Final = 500
_BATCH_BYTES: Final = 8 * 1024 * 1024

_Batch = list[tuple[Letter, str]]


class Account(Struct):
    """What a replay has done."""

    sent: Counter[Kind] = field(default_factory=Counter[Kind])
    """Acknowledged by all replicas."""
    refused: Counter[str] = field(default_factory=Counter[str])
    """Letters that can never be sent as things are, by what is wrong."""
    unsent: int = 0
    """Tried, and not acknowledged, when it stopped."""
    stopped: WorkerError | None = None
    """Why it stopped early."""
    forgotten: int = 0
    """Acknowledged, but their receipt could not be written: the next replay sends them again."""


class Order(Struct, frozen=True, kw_only=True):
    """What to send: of a survey's letters, in the window that it saw, the first `limit`.

    The records of one trace lie together, and the one that the limit falls into is sent whole: half of
    a value that was cut into pieces would only die again.
    """

    survey: Survey
    window: Window
    partitions: Mapping[str, int]
    """Of every topic that is sent to."""
    again: bool = False
    limit: int | None = None


async def target_partitions(settings: Settings, kinds: Sequence[Kind]) -> dict[str, int]:
    """How many partitions each target has. Raises FatalError where one does not exist."""
    found: dict[str, int] = {}
    for topic in sorted({kind.target for kind in kinds} - {""}):
        if topic == settings.dead_letter_topic:
            raise FatalError(
                f"{topic} is the dead letters' own topic: --to must be one that a worker reads"
            )
        count = await partition_count(settings, topic)
        if count is None:
            raise FatalError(
                f"the topic {topic} does not exist, or this user may not see it: give --to TOPIC, or "
                f"leave its letters out by --origin-topic"
            )
        found[topic] = count
    return found


async def replay(settings: Settings, order: Order, copier: Copier, clock: Clock) -> Account:
    """Send, until all is sent or Kafka takes no more. Raises WorkerError before anything was sent.

    A crash between an acknowledgement and its receipt makes the next replay send that batch again;
    what arrives twice is stored once.
    """
    account = Account()
    count = 0
    key: bytes | None = None
    async with (
        open_letters(settings, window=order.window) as log,
        open_replay(settings, copier, order.partitions) as outlet,
    ):
        batch: _Batch = []
        size = 0
        async with contextlib.aclosing(log.records()) as records:
            async for record in records:
                item = None if is_receipt(record) else _item(read_letter(record), order)
                if item is None:
                    continue
                full = order.limit is not None and count >= order.limit
                if full and (key is None or item[0].key != key):
                    break
                batch.append(item)
                count += 1
                key = item[0].key
                size += item[0].size
                if len(batch) >= _BATCH_LETTERS or size >= _BATCH_BYTES:
                    await _send(outlet, batch, account, clock)
                    batch, size = [], 0
                    if account.stopped is not None:
                        return account
        await _send(outlet, batch, account, clock)
    return account


def _item(letter: Letter, order: Order) -> tuple[Letter, str] | None:
    """The letter and where it goes; None where it is not wanted or has no place to go to."""
    target = order.survey.target(letter)
    if not target or not order.survey.wanted(letter, again=order.again):
        return None
    return letter, target


async def _send(outlet: KafkaReplay, batch: _Batch, account: Account, clock: Clock) -> None:
    outcomes = await outlet.send(batch)
    done: dict[tuple[int, str], Offsets] = {}
    for (letter, target), error in zip(batch, outcomes, strict=True):
        if error is None:
            account.sent[Kind(letter.reason, target)] += 1
            done.setdefault((letter.partition, target), Offsets()).add(letter.offset)
        elif isinstance(error, PoisonError):
            account.refused[str(error)] += 1
        else:
            account.unsent += 1
            account.stopped = account.stopped or error
    for (partition, target), offsets in done.items():
        receipt = Receipt(target, offsets.ranges(), clock.now_ms(), VERSION)
        try:
            await outlet.remember(partition, receipt)
        except WorkerError as error:
            account.forgotten += len(offsets)
            account.stopped = account.stopped or error
