"""The worker's pipeline: consume, decode, assemble, sample, write, commit, on one event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ports import Clock, Partition
from spanferry_worker.runtime.books import Bookkeeper
from spanferry_worker.runtime.committer import Committer
from spanferry_worker.runtime.dead_letters import DeadLetterOffice
from spanferry_worker.runtime.intake import Intake
from spanferry_worker.runtime.lanes import Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.runtime.watch import Watch
from spanferry_worker.runtime.writer import Writer
from spanferry_worker.settings import Settings
from spanferry_worker.telemetry import LogEvent

__all__ = ["Pipeline"]

_log = logging.getLogger("spanferry.worker")
_LOOK_S = 0.02
"""How often it is looked whether there is room for more of what is open."""
_WRITING_SHARE = 0.8
"""Of `process.stop_s`; the rest is for the commit."""
_CLOSE_S = 5.0
"""How long closing all connections may take."""


class Pipeline:
    """Runs the stages until told to stop; owns the partitions meanwhile."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._parts = parts
        self._settings = settings
        self._stop = asyncio.Event()
        self.state = "starting"
        """What it does now or waits for, for /readyz: `ready` where all is well."""
        self.lanes = Lanes(settings)
        self.office = DeadLetterOffice(parts, settings, self.lanes)
        self.writer = Writer(parts, settings, self.lanes, self.office)
        self.intake = Intake(parts, settings, self.lanes, self.writer, self.office)
        self.books = Bookkeeper(parts, self.lanes)
        self.committer = Committer(parts, settings, self.lanes, self.books)
        self.watch = Watch(parts, settings, self.lanes, self.intake, self.writer)

    def stop(self) -> None:
        """Ask for a graceful end: write and commit what is decided, then leave."""
        self._stop.set()
        self.intake.interrupt()

    async def run(self) -> None:
        """Run until `stop`. Raises FatalError where going on makes no sense."""
        try:
            await self._run()
        except BaseExceptionGroup as group:
            fatal = group.subgroup(FatalError)
            if fatal is None:
                raise
            raise _first(fatal) from None

    async def _run(self) -> None:
        parts = self._parts
        try:
            if not (
                await self._open("store", parts.sink.open)
                and await self._open("dead letters", parts.letters.open)
                and await self._open("ledger", self.books.open)
            ):
                return
            parts.settled()
            _fit_memory(parts, self._settings, self.lanes)
            if not await self._open("Kafka", self._join):
                return
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.writer.run(), name="write"),
                    group.create_task(self.office.run(), name="dead-letters"),
                    group.create_task(self.committer.run(), name="commit"),
                    group.create_task(self.watch.run(), name="watch"),
                    group.create_task(self.books.run(), name="ledger"),
                    group.create_task(self.intake.decider.fleet.run(), name="sample"),
                    group.create_task(self.intake.decider.restorer.run(), name="restore"),
                    group.create_task(self.intake.decider.recall.run(), name="recall"),
                    group.create_task(self.intake.decider.drops.run(), name="drops"),
                ]
                await self._consume()
                await self._drain()
                for task in tasks:
                    task.cancel()
        finally:
            await self._close()

    async def _close(self) -> None:
        """Leave the group first, so that others take over at once."""
        parts = self._parts
        try:
            async with asyncio.timeout(_CLOSE_S):
                await parts.log.close()
                await parts.letters.close()
                await self.books.close()
                await parts.sink.close()
        except TimeoutError:
            _log.warning(
                "connections did not close in time and are left as they are",
                extra=LogEvent.WORKER_CLOSE_TIMEOUT(),
            )

    async def _open(self, name: str, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Try until it works; False where `stop` came first."""
        failures = 0
        while not self._stop.is_set():
            self.state = f"waits for {name}"
            try:
                if not await _unless(self._stop, attempt()):
                    return False
            except TransientError as error:
                failures += 1
                delay_s = self._settings.retry.delay_s(failures, self._parts.chance.random())
                self.state = f"waits for {name}: {error}"
                _log.warning(
                    "%s not available, next try in %.1f s: %s",
                    name,
                    delay_s,
                    error,
                    extra=LogEvent.WORKER_WAITING(next_try_s=delay_s),
                )
                await wait_for_event(self._stop, delay_s)
            else:
                return True
        return False

    async def _join(self) -> None:
        self.lanes.joining_since_ms = self._parts.clock.now_ms()
        await self._parts.log.open(self)

    async def _consume(self) -> None:
        """Take records until `stop`; join the group anew where the client is broken or stands."""
        while not self._stop.is_set():
            self.state = "ready"
            await self.intake.run()
            if not self._stop.is_set():
                await self._parts.log.close()
                self._forget(self.lanes.partitions)
                await self._open("Kafka", self._join)

    async def _drain(self) -> None:
        """Write what is decided, THEN commit it; what is open is the next owner's."""
        self.state = "stopping"
        stop_s, clock = self._settings.process.stop_s, self._parts.clock
        began_ms = clock.now_ms()
        written_ms = began_ms + int(stop_s * _WRITING_SHARE * 1000)
        if self._settings.assemble.write_open_at_stop:
            await _give_out_open(self, clock, until_ms=written_ms)
        # 1. write
        if not await self._flush(max(1.0, (written_ms - clock.now_ms()) / 1000)):
            _log.warning(
                "stopped before all was written; the next worker reads it again",
                extra=LogEvent.WORKER_DRAIN_INCOMPLETE(),
            )
        # 2. commit
        left_s = stop_s - (clock.now_ms() - began_ms) / 1000
        await self._commit(max(1.0, left_s))

    async def _flush(self, timeout_s: float) -> bool:
        """Write what is decided, dead letters and drops too; False where the time did not suffice."""
        self.writer.flush(on=True)
        waiting = (self.writer, self.office, self.intake.decider.drops)
        try:
            async with asyncio.timeout(timeout_s):
                while not all(one.idle.is_set() for one in waiting):
                    for one in waiting:
                        await one.idle.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self.writer.flush(on=False)

    async def _commit(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.committer.commit()
        except TimeoutError:
            _log.warning(
                "the last commit took too long; some traces will be written again",
                extra=LogEvent.COMMIT_TIMEOUT(),
            )

    def _forget(self, partitions: frozenset[Partition]) -> None:
        self.writer.drop(self.lanes.close(partitions))

    def assigned(self, partitions: frozenset[Partition]) -> None:
        """Start with empty lanes: everything from the committed offset on is read again."""
        numbers = _numbers(partitions)
        _log.info("partitions assigned", extra=LogEvent.CONSUME_ASSIGNED(partitions=numbers))
        self._parts.metrics.consume_rebalances.inc()
        self.lanes.joining_since_ms = None
        self._forget(partitions)
        for partition in sorted(partitions):
            self.lanes.open(partition)

    def resumed(self, committed: Mapping[Partition, int], notes: Mapping[Partition, str]) -> None:
        """See PartitionOwner."""
        for partition, offset in committed.items():
            lane = self.lanes.of(partition)
            if lane is not None:
                lane.go_on(offset, notes.get(partition, ""))
        self.books.begin()
        self.intake.decider.begin()

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        """Write what is decided, THEN commit it, then forget the rest: the next owner reads it."""
        self.lanes.joining_since_ms = self._parts.clock.now_ms()
        ours = partitions & self.lanes.partitions
        if not ours:
            return
        # 1. write
        flushed = await self._flush(self._settings.consume.revoke_flush_s)
        # 2. commit
        margin_s = self._settings.kafka.rebalance_timeout_s - self._settings.consume.revoke_flush_s
        await self._commit(margin_s / 2)
        # 3. forget
        self._forget(ours)
        _log.info(
            "partitions revoked",
            extra=LogEvent.CONSUME_REVOKED(partitions=_numbers(ours), all_written=flushed),
        )


async def _give_out_open(pipeline: Pipeline, clock: Clock, *, until_ms: int) -> None:
    """Decide on what is open as fast as it can be written: unfolded it takes many times its memory."""
    for lane in pipeline.lanes:
        for trace in lane.assembler.drain():
            pipeline.intake.decider.decide(trace, lane)
            while pipeline.writer.held_bytes > pipeline.lanes.room.waiting_bytes_max:
                if clock.now_ms() >= until_ms:
                    return  # the next worker reads it
                await asyncio.sleep(_LOOK_S)


def _fit_memory(parts: Parts, settings: Settings, lanes: Lanes) -> None:
    """Hold no more than leaves room for the process itself, now that it has loaded everything."""
    limit, taken, room = settings.memory_bytes_max, parts.resident_bytes(), lanes.room
    fits = room.fit(limit - taken)
    if not fits and settings.process.memory_bytes_max:
        needed = taken + settings.consume.poll_bytes_max
        raise FatalError(
            f"process.memory_bytes_max={limit} is too little: this process takes {taken} bytes before "
            f"it reads anything, and one poll of Kafka consume.poll_bytes_max: give it {needed} or more"
        )
    parts.metrics.consume_held_limit_bytes.set(room.held_bytes_max)
    _log.log(
        logging.INFO if fits else logging.WARNING,
        "may hold %d MB of records; %d MB is taken already, and %d MB the limit",
        room.held_bytes_max // 1_000_000,
        taken // 1_000_000,
        limit // 1_000_000,
        extra=LogEvent.WORKER_MEMORY(taken_bytes=taken, held_bytes_max=room.held_bytes_max),
    )


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Do the work, or give it up when `stop` comes first: then False."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        working.cancel()
        stopping.cancel()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _numbers(partitions: frozenset[Partition]) -> list[int]:
    return sorted(partition.partition for partition in partitions)
