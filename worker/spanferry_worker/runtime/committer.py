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
        self._session_ms = int(settings.kafka.session_timeout_s * 1000)
        self._awake_ms = parts.clock.now_ms()
        self._interval_s = settings.commit.interval_s
        self._lanes = lanes
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Commit every `interval_s`, for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.commit()

    async def commit(self) -> bool:
        """Commit what has moved. False where it could not be: it is tried again next time.

        Where the partitions turn out to be lost their lanes are forgotten.
        """
        async with self._turn:
            due = {lane: lane.due() for lane in self._lanes}
            moved = {lane: offset for lane, offset in due.items() if offset is not None}
            awake = self._look_at_the_clock()
            if not moved:
                return True
            if awake and not await self._books.write(moved):
                return False
            try:
                ours = await self._parts.log.commit(
                    {lane.partition: o for lane, o in moved.items()}
                )
            except TransientError as error:
                self._parts.metrics.commits.labels("failed").inc()
                _log.warning(
                    "commit failed, tried again later: %s", error, extra=LogEvent.COMMIT_FAILED()
                )
                return False
            if not ours:
                self._parts.metrics.commits.labels("lost").inc()
                _log.warning(
                    "commit refused: the partitions went to another worker",
                    extra=LogEvent.COMMIT_LOST(),
                )
                self._lanes.close(lane.partition for lane in moved)
                return False
            for lane, offset in moved.items():
                lane.committed = offset
            self._parts.metrics.commits.labels("done").inc()
            if not awake:
                await self._books.write(moved)
            return True

    def _look_at_the_clock(self) -> bool:
        """False where the process has stood still for so long that others may own its partitions.

        Then Kafka is asked first, by the commit: who has lost them must not write their ledger.
        """
        now_ms = self._parts.clock.now_ms()
        still_ms, self._awake_ms = now_ms - self._awake_ms, now_ms
        return still_ms < self._session_ms
