"""Writes down which traces were dropped, before their offsets move, and reads it when partitions come.

So what comes late for a dropped trace is dropped, too, and feedback brings it back, whoever has dropped it.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from spanferry_worker.errors import FatalError, WorkerError
from spanferry_worker.ports import DroppedLog
from spanferry_worker.runtime.complaint import Complaint
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.remembered import Remembered
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Outcome
from spanferry_worker.stages.footprint import RECORD_BYTES
from spanferry_worker.stages.sample import decode_decisions, encode_decisions
from spanferry_worker.stages.trace import Position
from spanferry_worker.telemetry import LogEvent

__all__ = ["Drops"]

_log = logging.getLogger("spanferry.sample")
_LINGER_S: Final = 0.1
"""For how long drops are collected, so that a record carries many."""
_LOOK_S: Final = 0.5
_BATCH_MAX: Final = 20_000
"""Drops that are written at once ..."""
_RECORD_BYTES_MAX: Final = 256 * 1024
"""... in records of about this at most."""
_PATIENCE_MS: Final = 10_000
"""Offsets wait no longer for drops that cannot be written."""
_RETRY_S: Final = 1.0
_REFUSED_RETRY_S: Final = 60.0
"""After Kafka has refused: rights and topics change rarely."""


class _Drop(Struct, frozen=True):
    """One dropped trace, or more of one."""

    lane: Lane
    entries: bytes
    positions: Sequence[Position]
    """Settled once it is written down."""
    since_ms: int


class Drops:
    """Delivery never waits for it in vain: what cannot be written down is dropped all the same."""

    def __init__(
        self, parts: Parts, settings: Settings, lanes: Lanes, remembered: Remembered
    ) -> None:
        self._parts = parts
        self._group = settings.kafka.group
        self._bytes_max = settings.sample.remembered_bytes_max
        self._lanes = lanes
        self._remembered = remembered
        self._is_on = False
        self._refused = False
        self._waiting: deque[_Drop] = deque()
        self._loaded: set[int] = set()
        self._arrived = asyncio.Event()
        self._assigned = asyncio.Event()
        self._complaint = Complaint()
        self.idle = asyncio.Event()
        """Set while nothing waits to be written down."""
        self.idle.set()
        self.held_bytes = 0
        """What waits here takes in memory."""

    def switch(self, *, on: bool) -> None:
        """Whether the policy can drop traces at all."""
        self._is_on = on and self._parts.dropped is not None

    def begin(self) -> None:
        """Partitions have come: read what is written down of them."""
        self._assigned.set()

    def is_ready(self, lane: Lane) -> bool:
        """Whether all is known that was written down of a partition, or can be."""
        return not self._is_on or self._refused or lane.lane_id in self._loaded

    def take(self, lane: Lane, entries: bytes, positions: Sequence[Position]) -> None:
        """A trace was dropped: its records are settled once that is written down."""
        if not self._is_on or self._refused:
            if self._is_on:
                self._parts.metrics.sample.unwritten.inc()
            lane.settle(positions, Outcome.SAMPLED)
            return
        self._waiting.append(_Drop(lane, entries, positions, self._parts.clock.now_ms()))
        self.held_bytes += RECORD_BYTES * (1 + len(positions))
        self._arrived.set()
        self.idle.clear()

    async def run(self) -> None:
        """Write and read for ever; returns at once where there is no log."""
        log = self._parts.dropped
        if log is None:
            return
        while True:
            if not self._is_on:
                self._give_up(self._waiting)
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                await log.open()
                self._refused = False
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(log), name="sample-write")
                    group.create_task(self._load(log), name="sample-load")
            except* (WorkerError, TimeoutError) as errors:
                self._cannot(_first(errors))
            finally:
                await log.close()
            await asyncio.sleep(_REFUSED_RETRY_S if self._refused else _RETRY_S)

    async def _write(self, log: DroppedLog) -> None:
        """Until it fails, or is not needed any more."""
        while self._is_on:
            if not await wait_for_event(self._arrived, _LOOK_S):
                continue
            await asyncio.sleep(_LINGER_S)
            some = list(islice(self._waiting, _BATCH_MAX))
            await log.append(self._records(some))
            self._complaint.over()
            self._settle(some)

    def _records(self, some: Sequence[_Drop]) -> list[tuple[int, bytes]]:
        """By partition, as few as may be."""
        blocks: dict[Lane, list[bytearray]] = {}
        for drop in some:
            if self._lanes.owned(drop.lane.lane_id) is None:
                continue
            mine = blocks.setdefault(drop.lane, [bytearray()])
            if len(mine[-1]) >= _RECORD_BYTES_MAX:
                mine.append(bytearray())
            mine[-1] += drop.entries
        return [
            (lane.partition.partition, encode_decisions(self._group, bytes(block)))
            for lane, mine in blocks.items()
            for block in mine
        ]

    def _settle(self, some: Sequence[_Drop]) -> None:
        """These are the first that wait."""
        for drop in some:
            self._waiting.popleft()
            self.held_bytes -= RECORD_BYTES * (1 + len(drop.positions))
            if self._lanes.owned(drop.lane.lane_id) is not None:
                drop.lane.settle(drop.positions, Outcome.SAMPLED)
        if not self._waiting:
            self._arrived.clear()
            self.idle.set()

    async def _load(self, log: DroppedLog) -> None:
        """What was written down of partitions that have come, until it is not needed any more."""
        while self._is_on:
            lanes = list(self._lanes)
            self._loaded &= {lane.lane_id for lane in lanes}
            new = next((lane for lane in lanes if lane.lane_id not in self._loaded), None)
            if new is None:
                await wait_for_event(self._assigned, _LOOK_S)
                self._assigned.clear()
                continue
            await self._load_lane(log, new, self._bytes_max // len(lanes))
            self._loaded.add(new.lane_id)

    async def _load_lane(self, log: DroppedLog, lane: Lane, bytes_max: int) -> None:
        """The newest, up to a partition's share of the memory."""
        read: list[tuple[list[bytes], int]] = []
        size = 0
        async with contextlib.aclosing(log.tail(lane.partition.partition)) as tail:
            async for records in tail:
                some = [decode_decisions(record.value, self._group) for record in records]
                read.append((some, max((record.timestamp for record in records), default=0)))
                size += sum(map(len, some))
                if size >= bytes_max or self._lanes.owned(lane.lane_id) is None:
                    break
        for some, made_ms in read:
            self._remembered.put_read(lane, some, made_ms)
            await asyncio.sleep(0)

    def _cannot(self, error: BaseException) -> None:
        self._parts.metrics.sample.dropped_errors.inc()
        level, text = self._complaint.about(error)
        message = "traces are dropped, and which ones cannot be written down: %s"
        _log.log(level, message, text, extra=LogEvent.SAMPLE_UNWRITTEN())
        self._refused = isinstance(error, FatalError)
        long_ago_ms = self._parts.clock.now_ms() - _PATIENCE_MS
        some = self._waiting
        self._give_up([one for one in some if self._refused or one.since_ms <= long_ago_ms])

    def _give_up(self, some: Sequence[_Drop]) -> None:
        """Let their offsets go: the first that wait."""
        if some:
            self._parts.metrics.sample.unwritten.inc(len(some))
            self._settle(list(some))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is to be said: a refusal before anything else."""
    fatal = group.subgroup(FatalError)
    error: BaseException = fatal or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
