"""Takes records from Kafka, runs them through decode, assemble and sample, and waits where it must."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Partition
from spanferry_worker.runtime.dead_letters import DeadLetterOffice
from spanferry_worker.runtime.decider import Decider
from spanferry_worker.runtime.lanes import Gained, Lanes, LogWentBackError
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.runtime.writer import Writer
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import FlowGate, MeanSize, PollSizer, Record
from spanferry_worker.telemetry import LogEvent

__all__ = ["Intake"]

_log = logging.getLogger("spanferry.consume")
_POLL_S = 0.1
"""Longest wait for records; also how often timers are looked at."""
_PAUSE_AFTER_S = 5.0
"""A shorter wait just does not poll, because pausing throws away what is fetched already."""
_FAILURES_MAX = 5
"""Failed polls in a row after which the client is made anew."""


class Intake:
    """The front half of the pipeline, on one task."""

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        lanes: Lanes,
        writer: Writer,
        office: DeadLetterOffice,
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._lanes = lanes
        self._writer = writer
        self._office = office
        self.decider = Decider(parts, settings, lanes, writer)
        self._gate = FlowGate(lanes.room)
        self._sizer = PollSizer(settings.consume)
        self.sizes = MeanSize()
        """Of the records read, whatever their partition."""
        self._progress = asyncio.Event()
        writer.on_progress = office.on_progress = self._progress.set
        self._interrupted = False
        self._first_lane = 0
        """Whose turn it is to be looked at first."""

    @property
    def waiting(self) -> bool:
        """Intake stands because the worker holds as much as it may."""
        return self._gate.closed

    @property
    def held_bytes(self) -> int:
        """What all records in the process that are not stored yet take in memory."""
        decided = self._writer.held_bytes + self._office.held_bytes
        return self._lanes.held_bytes + self.decider.held_bytes + decided

    def interrupt(self) -> None:
        """Make `run` return soon."""
        self._interrupted = True
        self._progress.set()

    async def run(self) -> None:
        """Take records until interrupted, or until the log fails again and again."""
        attempt = 0
        self._interrupted = False
        while not self._interrupted and attempt < _FAILURES_MAX:
            try:
                if self._gate.update(self.held_bytes):
                    await self._wait_for_room()
                    continue
                polled = await self._parts.log.poll(
                    timeout_s=_POLL_S, records_max=self._sizer.records
                )
                self._take(polled)
            except LogWentBackError as error:
                _log.error(
                    "%s; reading anew from what is committed",
                    error,
                    extra=LogEvent.CONSUME_OFFSETS_BACK(),
                )
                return
            except TransientError as error:
                attempt += 1
                self._parts.metrics.consume_errors.inc()
                delay_s = self._settings.retry.delay_s(attempt, self._parts.chance.random())
                _log.warning(
                    "Kafka not available, next try in %.1f s: %s",
                    delay_s,
                    error,
                    extra=LogEvent.CONSUME_FAILED(next_try_s=delay_s),
                )
                await asyncio.sleep(delay_s)
                continue
            attempt = 0
            self._tick()
            # A poll of what is fetched already never suspends; the writer and the heartbeat must run.
            await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        """Stand until the store has caught up; keep the group membership alive meanwhile."""
        self._parts.metrics.consume_paused.set(1)
        deadline_ms = self._parts.clock.now_ms() + int(_PAUSE_AFTER_S * 1000)
        paused = False
        try:
            while not self._interrupted and self._gate.update(self.held_bytes):
                if not paused and self._parts.clock.now_ms() >= deadline_ms:
                    paused = True
                    held = LogEvent.CONSUME_PAUSED(held_bytes=self.held_bytes)
                    _log.warning("intake waits for the store", extra=held)
                if paused:
                    # Again every time: a rebalance brings partitions that are not paused.
                    self._parts.log.pause()
                    self._take(await self._parts.log.poll(timeout_s=0.0, records_max=1))
                self._progress.clear()
                await wait_for_event(self._progress, _POLL_S)
                self._tick()
        finally:
            if paused:
                self._parts.log.resume()
        self._parts.metrics.consume_paused.set(0)

    def _take(self, polled: Mapping[Partition, Sequence[Record]]) -> None:
        wall_ms = self._parts.clock.now_ms()
        gained = Gained()
        count = size = 0
        for partition, records in polled.items():
            lane = self._lanes.of(partition)
            # Without a lane the partition was lost; it is read again from its committed offset.
            if lane is not None:
                size += lane.take(records, wall_ms, gained)
                count += len(records)
        if count:
            self._sizer.saw(count, size)
            self.sizes.saw(count, size)
            self._parts.metrics.consume_records.inc(count)
            self._parts.metrics.consume_bytes.inc(size)
        self._pass_on(gained)

    def _tick(self) -> None:
        """Timers and limits, a few times a second."""
        wall_ms = self._parts.clock.now_ms()
        gained = Gained()
        # One batch for each call of the store, and one to follow.
        spare = self._writer.queue.spare(self._parts.sink.concurrency + 1)
        lanes = list(self._lanes)
        self._first_lane += 1
        for at in range(len(lanes)):
            lane = lanes[(self._first_lane + at) % len(lanes)]
            # While intake stands, what waits in Kafka is unknown and time must not pass here.
            if not self._gate.closed and self._parts.log.caught_up(lane.partition):
                lane.clock.caught_up(wall_ms)
            # A crowd that is due at once is given out as it can be written: others must not wait behind it.
            spare = max(0, spare - lane.expire(gained, spare))
        self._lanes.shed(gained)
        self._pass_on(gained)
        self.decider.tick()

    def _pass_on(self, gained: Gained) -> None:
        """Decide what is finished and hand it to the writer, or to the dead letters."""
        if gained.good > 0:
            self._office.breakers.saw_good("decode", gained.good)
        for rejected, lane in gained.rejected:
            self._parts.metrics.decode_rejected.labels(rejected.reason.value).inc()
            self._office.take(rejected, lane)
        if gained.cut:
            self._parts.metrics.assemble_cut.inc(gained.cut)
            cut = LogEvent.ASSEMBLE_CUT(traces=gained.cut)
            _log.warning("payloads of open traces are cut: they take too much", extra=cut)
        if gained.replayed:
            self._parts.metrics.decode_replayed.inc(gained.replayed)
        for trace, lane in gained.traces:
            self.decider.decide(trace, lane)
