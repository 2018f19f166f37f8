"""Keeps the ledger in Kafka: read when partitions come, written with every commit."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from spanferry_worker.errors import FatalError, WorkerError
from spanferry_worker.ports import KeptAccounts, LedgerLog
from spanferry_worker.runtime.complaint import Complaint
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.stages.statement import sum_up
from spanferry_worker.telemetry import LogEvent

__all__ = ["Bookkeeper"]

_log = logging.getLogger("spanferry.ledger")
_LOAD_S = 15.0
_SAVE_S = 5.0
_LOOK_S = 5.0
_PATIENCE_MS = 60_000
"""For so long commits wait for a ledger that cannot be read or written: what is committed without it,
by a worker that then loses the partition, is accounted for by nobody."""
_UNCOUNTED_MAX = 500_000
"""Records of a partition, 33 bytes each, that wait to be counted until the ledger can be read."""
_RETRY_S = 30.0
"""Where no ledger can be kept, it is tried again so often."""


class Bookkeeper:
    """Delivery never waits for it, and commits not for long: what it cannot write it says once."""

    def __init__(self, parts: Parts, lanes: Lanes) -> None:
        self._parts = parts
        self._lanes = lanes
        self._loading: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._complaint = Complaint()
        self._failing_ms: int | None = None
        """Since when what was to be read or written could not be."""
        self._is_to_load = False

    async def open(self) -> None:
        """Connect, if that goes at once; else it is tried again when partitions come."""
        if self._parts.ledger is None:
            return
        try:
            async with asyncio.timeout(_LOAD_S):
                await self._connect(self._parts.ledger)
        except (WorkerError, TimeoutError) as error:
            self._cannot(error)
            self._failing_ms = None

    def begin(self) -> None:
        """Partitions have come, and where they go on is known: read what is kept of them."""
        self._is_to_load = False
        lanes = [lane for lane in self._lanes if lane.kept is None]
        if not lanes:
            return
        task = asyncio.ensure_future(self._load(lanes))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def run(self) -> None:
        """Gauges, and another try where no ledger can be kept, for ever."""
        waited_s = 0.0
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()
            await self._write_again()
            if self._is_to_load:
                self.begin()
            waited_s += _LOOK_S
            if waited_s >= _RETRY_S:
                waited_s = 0.0
                await self._load([lane for lane in self._lanes if lane.kept is False])

    async def _write_again(self) -> None:
        """What could not be written with its commit: another commit may not come for long."""
        await self._save([lane for lane in self._lanes if lane.kept and lane.books.is_behind])

    async def close(self) -> None:
        """Release what it has opened."""
        for task in self._loading:
            task.cancel()
        if self._parts.ledger is not None:
            await self._parts.ledger.close()

    async def write(self, moved: Mapping[Lane, int]) -> bool:
        """Count up to these offsets, and write what has changed. Never raises for Kafka's sake.

        False where that failed, or what was kept before cannot be read, and may do soon: the commit can wait.
        """
        if any(lane.kept is None for lane in moved):
            if not self._loading:
                self.begin()
            if self._loading:
                await asyncio.wait(set(self._loading))
            if any(lane.kept is None for lane in moved):
                return False
        now_ms = self._parts.clock.now_ms()
        for lane, offset in moved.items():
            if not _may_count(lane, now_ms):
                continue
            lane.books.fold(offset, now_ms)
            for name, count in lane.books.counted.items():
                self._parts.metrics.ledger.records.labels(name).inc(count)
            lane.books.counted.clear()
        await self._save([lane for lane in moved if lane.kept])
        return self._failing_ms is None or self._is_out_of_patience(now_ms)

    async def _save(self, lanes: Sequence[Lane]) -> None:
        ledger = self._parts.ledger
        if ledger is None or not lanes:
            return
        now_ms = self._parts.clock.now_ms()
        entries = [entry for lane in lanes for entry in lane.books.changes(now_ms)]
        try:
            async with asyncio.timeout(_SAVE_S):
                await ledger.save(entries)
        except (WorkerError, TimeoutError) as error:
            self._cannot(error)
            for lane in lanes:
                lane.books.rewrite()
                lane.kept = not isinstance(error, FatalError)
        else:
            self._works()

    async def _load(self, lanes: Sequence[Lane]) -> None:
        """Begin the ledgers of these lanes; those that are off already go on where anything is kept.

        Where that fails and may do soon they stay as they are; once patience ends what is committed waits to
        be counted.
        """
        if not lanes:
            return
        found = await self._read(lanes)
        now_ms = self._parts.clock.now_ms()
        self._is_to_load = waits = found is None and self._failing_ms is not None
        if waits and not self._is_out_of_patience(now_ms):
            return
        for lane in lanes:
            if lane.books.is_begun:
                if found is not None:
                    lane.books.go_on(found.kept, now_ms)
            elif not waits:
                lane.books.begin(
                    () if found is None else found.kept,
                    resumed_at=lane.resumed_at,
                    end=None if found is None else found.ends.get(lane.partition),
                    now_ms=now_ms,
                )
                if lane.committed is not None:
                    lane.books.fold(lane.committed, now_ms)
            lane.kept = found is not None

    async def _read(self, lanes: Iterable[Lane]) -> KeptAccounts | None:
        ledger = self._parts.ledger
        if ledger is None:
            return None
        try:
            async with asyncio.timeout(_LOAD_S):
                await self._connect(ledger)
                found = await ledger.load([lane.partition for lane in lanes])
        except (WorkerError, TimeoutError) as error:
            self._cannot(error)
            return None
        self._works()
        return found

    async def _connect(self, ledger: LedgerLog) -> None:
        if not self._is_open:
            await ledger.open()
            self._is_open = True

    def _is_out_of_patience(self, now_ms: int) -> bool:
        return self._failing_ms is not None and now_ms - self._failing_ms >= _PATIENCE_MS

    def _works(self) -> None:
        self._failing_ms = None
        self._complaint.over()

    def _cannot(self, error: Exception) -> None:
        if isinstance(error, FatalError):
            self._failing_ms = None
        elif self._failing_ms is None:
            self._failing_ms = self._parts.clock.now_ms()
        self._parts.metrics.ledger.errors.inc()
        level, text = self._complaint.about(error)
        _log.log(
            level,
            "the ledger is not kept, traces flow without it: %s",
            text,
            extra=LogEvent.LEDGER_UNKEPT(),
        )

    def look(self) -> None:
        """Set the gauges to what is so now, and tell of holes that were found."""
        metrics = self._parts.metrics.ledger
        lanes = list(self._lanes)
        _tell_of_holes(lanes)
        metrics.kept.set(self._parts.ledger is not None and all(lane.kept for lane in lanes))
        metrics.show(sum_up((lane.books, lane.unread) for lane in lanes))


def _tell_of_holes(lanes: Iterable[Lane]) -> None:
    for lane in lanes:
        if lane.books.hole is None:
            continue
        (begin, end), lane.books.hole = lane.books.hole, None
        _log.warning(
            "the ledger has a hole: partition %d was committed from %d to %d without it",
            lane.partition.partition,
            begin,
            end,
            extra=LogEvent.LEDGER_HOLE(partition=lane.partition.partition, begin=begin, end=end),
        )


def _may_count(lane: Lane, now_ms: int) -> bool:
    """What is committed while the ledger cannot be read is counted once it can, as far as that goes."""
    if not lane.books.is_begun and len(lane.books.window) > _UNCOUNTED_MAX:
        lane.books.begin((), resumed_at=lane.resumed_at, end=None, now_ms=now_ms)
    return lane.books.is_begun
