"""Reads the dead letters' topic as it lies there, outside of any consumer group: nothing is committed."""

import contextlib
from collections.abc import AsyncGenerator

from spanferry_worker.errors import FatalError
from spanferry_worker.services.kafka_client import kafka_border
from spanferry_worker.services.kafka_reread import reread
from spanferry_worker.services.kafka_scan import (
    Times,
    TopicScan,
    Window,
    open_scan,
    partition_count,
)
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import Position

__all__ = ["LetterLog", "Window", "open_letters", "partition_count"]


class LetterLog:
    """The topic, open for reading. Made by `open_letters`.

    `window` is what lay there when it was opened; what comes later is not read.
    """

    def __init__(self, settings: Settings, scan: TopicScan) -> None:
        self._settings = settings
        self._scan = scan
        self.topic = scan.topic
        self.window = scan.window

    def records(self) -> AsyncGenerator[Record]:
        """Letters and receipts, as TopicScan.records."""
        return self._scan.records()

    async def one(self, partition: int, offset: int) -> Record | None:
        """A single record; None where there is none (any more). The partition must exist."""
        with kafka_border(f"read {self.topic} (by ACLs this needs Describe and Read on it)"):
            found = await reread(self._settings.kafka, [Position(self.topic, partition, offset)])
        return found[0] if found else None


@contextlib.asynccontextmanager
async def open_letters(
    settings: Settings, *, since_ms: int | None = None, window: Window | None = None
) -> AsyncGenerator[LetterLog]:
    """Open the topic from its beginning, or from what was written at `since_ms` or later.

    `window`: that of an earlier look, instead; so a replay never meets what has come back of it.
    Raises TransientError where Kafka cannot be reached, FatalError where it refuses or where there is
    no such topic: the message says what to do.
    """
    topic = settings.dead_letter_topic
    partitions = await partition_count(settings, topic)
    if partitions is None:
        raise FatalError(
            f"the dead letters' topic {topic} does not exist, or this user may not see it. Is --topic "
            "that of the traces? A worker makes it when it starts, and so does `spanferry topics "
            "create`; by ACLs this needs Describe and Read on it"
        )
    part = Times(since_ms) if window is None else window
    async with open_scan(settings, topic, partitions, part) as scan:
        yield LetterLog(settings, scan)
