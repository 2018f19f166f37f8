"""Writes decided traces in batches; returns from nothing before it is durable or a dead letter."""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from spanferry_worker.errors import (
    PartlyRefusedError,
    PoisonError,
    TraceNotFoundError,
    TransientError,
    WorkerError,
)
from spanferry_worker.runtime.dead_letters import DeadLetterOffice
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Outcome
from spanferry_worker.stages.pace import BatchPace, WritePace
from spanferry_worker.stages.trace import AssembledTrace, FinishReason
from spanferry_worker.stages.write import Bisection, Queued, WaitingRoom, WriteQueue
from spanferry_worker.telemetry import LogEvent

__all__ = ["Writer"]

_log = logging.getLogger("spanferry.write")


class Writer:
    """The queue before the store and the tasks that empty it."""

    def __init__(
        self, parts: Parts, settings: Settings, lanes: Lanes, office: DeadLetterOffice
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._lanes = lanes
        self._office = office
        self.queue = WriteQueue(settings.write)
        self._absent = WaitingRoom(settings.write)
        self.pace = WritePace(parts.sink.concurrency)
        self._batches = BatchPace(settings.write.batch_traces_max)
        self._turn = asyncio.Event()
        self._changed = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing waits and nothing is under way."""
        self.idle.set()
        self._flushing = 0
        self.on_progress: Callable[[], None] = lambda: None
        """Called whenever a batch is settled."""
        self.failing_since_ms: int | None = None
        """Since when the store has been failing; None while it works."""
        self._started: dict[int, int] = {}

    def add(self, trace: AssembledTrace, lane: Lane) -> None:
        """A decided trace. It is not waited for."""
        recorded_ms = lane.newest_ms if trace.reason is FinishReason.COMPLETE else None
        self.queue.add(Queued(trace, lane.lane_id, recorded_ms), self._parts.clock.now_ms())
        self._tell()

    @property
    def held_bytes(self) -> int:
        """What waits or is under way takes in memory."""
        return self.queue.held_bytes + self._absent.held_bytes

    def oldest_write_ms(self) -> int | None:
        """When the longest-running call of the store began; None where none runs."""
        return min(self._started.values(), default=None)

    def drop(self, lane_ids: frozenset[int]) -> None:
        """Forget what waits for partitions that are gone."""
        self.queue.drop(lane_ids)
        self._absent.drop(lane_ids)
        self._tell()

    def _tell(self) -> None:
        """The queue has changed: let those know who wait for it."""
        self._changed.set()
        if self.queue.held_traces:
            self.idle.clear()
        else:
            self.idle.set()

    def flush(self, *, on: bool) -> None:
        """Until switched off: write at once what waits, without lingering. Calls may nest."""
        self._flushing += 1 if on else -1
        self._changed.set()

    async def run(self) -> None:
        """Write for ever, as many batches at once as the store takes."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._parts.sink.concurrency):
                group.create_task(self._work(number), name=f"write-{number}")
            group.create_task(self._try_again(), name="write-absent")

    async def _work(self, number: int) -> None:
        while True:
            self.queue.share = self._batches.share
            batch = self.queue.take(self._parts.clock.now_ms(), flush=self._flushing > 0)
            if batch is None:
                due_ms = self.queue.due_in_ms(self._parts.clock.now_ms())
                self._changed.clear()
                await wait_for_event(self._changed, None if due_ms is None else due_ms / 1000)
                continue
            try:
                await self._write(batch, number)
            finally:
                self.queue.settle(batch)
            self._tell()
            self.on_progress()

    async def _try_again(self) -> None:
        """Queue anew what waits for its trace. At a stop it waits on: the next worker reads it."""
        while True:
            await asyncio.sleep(self._settings.write.absent_retry_s)
            now_ms = self._parts.clock.now_ms()
            for item in self._absent.due(now_ms):
                self.queue.add(item, now_ms)
            self._tell()

    @contextmanager
    def _running(self, number: int, part: Sequence[Queued]) -> Generator[None]:
        """While the store is being called."""
        available = True
        began_ms = self._started[number] = self._parts.clock.now_ms()
        try:
            yield
        except TransientError:
            available = False
            raise
        finally:
            del self._started[number]
            self.pace.end(available=available)
            took_s = (self._parts.clock.now_ms() - began_ms) / 1000
            self._batches.wrote(len(part), self.queue.fill(part), took_s, available=available)
            self._turn.set()

    async def _write(self, batch: Sequence[Queued], number: int) -> None:
        """Store a batch whole, or bisected down to what the store refuses."""
        plan = Bisection(batch)
        attempt = 0

        def wanted(item: Queued) -> bool:
            return self._lanes.owned(item.lane_id) is not None

        while (part := plan.part) is not None:
            if not all(map(wanted, part)):
                plan.narrow(wanted)
                continue
            if not self.pace.begin():
                self._turn.clear()
                await self._turn.wait()
                continue
            try:
                with self._running(number, part):
                    await _store(self._parts, [item.trace for item in part])
            except TransientError as error:
                attempt += 1
                await self._back_off(attempt, error)
            except PoisonError as error:
                stored, culprits = _verdict(plan, part, error)
                self._stored(stored)
                for culprit, reason in culprits:
                    self._refuse(culprit, reason)
            else:
                attempt = 0
                plan.accepted()
                self._stored(part)

    async def _back_off(self, attempt: int, error: TransientError) -> None:
        if self.failing_since_ms is None:
            self.failing_since_ms = self._parts.clock.now_ms()
        self._parts.metrics.write_retries.inc()
        delay_s = self._settings.retry.delay_s(attempt, self._parts.chance.random())
        delay_s = max(delay_s, error.retry_after_s or 0.0)
        _log.warning(
            "store not available, next try in %.1f s: %s",
            delay_s,
            error,
            extra=LogEvent.WRITE_FAILED(next_try_s=delay_s),
        )
        await asyncio.sleep(delay_s)

    def _stored(self, part: Sequence[Queued]) -> None:
        self.failing_since_ms = None
        size = 0
        now_ms = self._parts.clock.now_ms()
        for item in part:
            size += item.trace.size
            lane = self._lanes.owned(item.lane_id)
            # A write that returns after its partition was lost must move no offset.
            if lane is not None:
                lane.settle(item.trace.positions, Outcome.STORED)
            if item.recorded_ms is not None:
                delay_s = max(0, now_ms - item.recorded_ms) / 1000
                self._parts.metrics.write_delay_seconds.observe(delay_s)
        self._parts.metrics.write_traces.inc(len(part))
        self._parts.metrics.write_bytes.inc(size)
        self._office.breakers.saw_good("write", len(part))

    def _refuse(self, item: Queued, error: PoisonError) -> None:
        """Let it wait where its trace may still come; else it is dead."""
        absent = isinstance(error, TraceNotFoundError)
        if absent and self._absent.admit(item, self._parts.clock.now_ms()):
            return
        self.failing_since_ms = None
        self._parts.metrics.write_refused.inc()
        self._office.take_refused(item.trace, error, item.lane_id)


def _verdict(
    plan: Bisection, part: Sequence[Queued], error: PoisonError
) -> tuple[Sequence[Queued], Sequence[tuple[Queued, PoisonError]]]:
    """What of a refused part is stored, and who is to blame: those whom the store names, or one alone."""
    if isinstance(error, PartlyRefusedError):
        culprits = [(part[place], reason) for place, reason in error.refused.items()]
        return plan.partly(error.refused), culprits
    culprit = plan.refused()
    return [], [] if culprit is None else [(culprit, error)]


async def _store(parts: Parts, traces: Sequence[AssembledTrace]) -> None:
    """One call of the store, measured. Raises what the sink may raise and nothing else."""
    began = time.perf_counter()
    try:
        await parts.sink.write(traces)
    except WorkerError:
        raise
    except Exception as error:
        # A fault of the sink that it does not know itself: find the trace that causes it.
        _log.exception("unexpected error of the store", extra=LogEvent.WRITE_UNEXPECTED())
        raise PoisonError(f"{type(error).__name__}: {error}") from error
    parts.metrics.write_seconds.observe(time.perf_counter() - began)
    parts.metrics.write_batch_traces.observe(len(traces))
    parts.metrics.write_batch_bytes.observe(sum(trace.size for trace in traces))
