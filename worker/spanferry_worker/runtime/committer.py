"""Commits the watermarks: only what is durable or decided lies below them."""

import asyncio
import logging

from spanferry_worker.errors import TransientError
from spanferry_worker.runtime.books import Bookkeeper
from spanferry_worker.runtime.lanes import Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.settings import Settings
from spanferry_worker.telemetry import LogEvent

__all__ = ["Committer"]

_log = logging.getLogger("spanferry.commit")


class Committer:
    """Sends watermarks to the broker, every now and then and when asked."""

    def __init__(self, parts: Parts, settings: Settings, lanes: Lanes, books: Bookkeeper) -> None:
        self._parts = parts
        self._books = books
        self._interval_s = settings.commit.interval_s
        self._lanes = lanes
        self._turn = asyncio.Lock()
        name = settings.kafka.group_instance_id
        self._rival = "" if name is None else f", or another process is called {name}, too"

    async def run(self) -> None:
        """Commit every `interval_s`, for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.commit()

    async def commit(self) -> bool:
        """Commit what has moved, with what else is decided. False where it could not be: it is tried again.

        Where the partitions turn out to be lost their lanes are forgotten.
        """
        async with self._turn:
            moved = {lane: at for lane in self._lanes if (at := lane.due()) is not None}
            told = moved | {lane: at for lane in self._lanes if (at := lane.news_at()) is not None}
            if not told:
                return True
            if not await self._books.write(moved):
                return False
            for lane in told:
                lane.has_news = False
            try:
                ours = await self._parts.log.commit(
                    {lane.partition: offset for lane, offset in told.items()},
                    {lane.partition: lane.note(offset) for lane, offset in told.items()},
                )
            except TransientError as error:
                for lane in told:
                    lane.has_news = True
                self._parts.metrics.commits.labels("failed").inc()
                _log.warning(
                    "commit failed, tried again later: %s", error, extra=LogEvent.COMMIT_FAILED()
                )
                return False
            if not ours:
                self._parts.metrics.commits.labels("lost").inc()
                _log.warning(
                    "commit refused: the partitions went to another worker%s",
                    self._rival,
                    extra=LogEvent.COMMIT_LOST(),
                )
                self._lanes.close(lane.partition for lane in told)
                return False
            for lane, offset in told.items():
                lane.committed = offset
            self._parts.metrics.commits.labels("done").inc()
            return True
