"""What simulated workers have of the outside: ports that delay, fail, and are cut when their worker dies."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from random import Random

from spanferry_schemas import Assessment
from spanferry_worker.errors import TransientError
from spanferry_worker.ports import DeadLetter, KeptAccounts, Partition
from spanferry_worker.stages.accounts import Entry
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.sample import Decision, Kept, Outcome, Sampler, Table
from spanferry_worker.stages.trace import AssembledTrace, Position
from spanferry_worker.testing import (
    MemoryDropped,
    MemoryLedger,
    MemorySink,
    SimulatedLoop,
    SimulatedProcess,
    Wire,
)
from tests.worker.events import T0_MS

__all__ = [
    "DroppedPort",
    "LedgerPort",
    "LettersPort",
    "SimulatedClock",
    "SimulatedWire",
    "SinkPort",
    "WatchedSampler",
    "Weather",
]


class Weather:
    """How the outside is just now, for everybody."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.away: set[str] = set()
        """`store`, `letters`, `broker`: which of them answer nobody."""
        self.slow_s = 0.0
        """How long the store takes."""
        self.failing = self.lost_answers = self.broken_off = 0.0
        self.deaths: dict[str, int] = {}
        self.pauses: dict[str, int] = {}

    def clear(self) -> None:
        """All is well from now on."""
        self.away.clear()
        self.slow_s = self.failing = self.lost_answers = self.broken_off = 0.0
        self.deaths.clear()
        self.pauses.clear()

    def strikes(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return probability > 0 and self.chance.random() < probability


class SimulatedClock:
    """A process's clock: right, or wrong by as much as the wall clock was when the process began."""

    def __init__(self, loop: SimulatedLoop, wrong_s: float) -> None:
        self._loop = loop
        self._start_ms = T0_MS + int(wrong_s * 1000)

    def now_ms(self) -> int:
        return self._start_ms + int(self._loop.time() * 1000)


class SimulatedWire(Wire):
    """Between one worker and everything else.

    `die` and `pause` are called where the plan wants it dead, or to stand still, in a call, `unheard`
    where the call has had its effect and the answer is lost.
    """

    def __init__(
        self,
        process: SimulatedProcess,
        weather: Weather,
        *,
        die: Callable[[str], None],
        pause: Callable[[str], None],
        unheard: Callable[[str], None],
    ) -> None:
        self._process = process
        self._weather = weather
        self._die = die
        self._pause = pause
        self._unheard = unheard

    def lives(self) -> bool:
        return self._process.alive and "broker" not in self._weather.away

    async def trip(self, what: str) -> None:
        weather = self._weather
        if _is_due(weather.deaths, what):
            self._die(what)
        elif _is_due(weather.pauses, what):
            self._pause(what)
            await asyncio.sleep(0)
        await self.stand()
        if what != "poll.asked":
            await self._take_time()
        store = what.startswith(("write", "marks"))
        if ("broker" in weather.away and not store) or weather.strikes(weather.failing):
            if what.endswith(".answered"):
                self._unheard(what)
            raise TransientError(f"no answer ({what})")

    async def _take_time(self) -> None:
        luck = self._weather.chance.random()
        if luck < 0.3:
            return
        await asyncio.sleep(0.0 if luck < 0.7 else luck * 0.02)
        await self.stand()

    async def stand(self) -> None:
        """Go on only while the process lives."""
        if not self._process.alive:
            await asyncio.get_running_loop().create_future()


def _is_due(plan: dict[str, int], what: str) -> bool:
    """Whether this call is the one that the plan means."""
    left = plan.get(what)
    if left is None:
        return False
    plan[what] = left - 1
    if left == 0:
        del plan[what]
    return left == 0


class SinkPort:
    """A Sink over the shared store; the store works on what it was given whoever dies meanwhile."""

    def __init__(
        self,
        wire: SimulatedWire,
        weather: Weather,
        sink: MemorySink,
        told: Callable[[str, Sequence[AssembledTrace]], None],
    ) -> None:
        self._wire = wire
        self._weather = weather
        self._sink = sink
        self._told = told
        # The store is another process than the worker.
        self._context = contextvars.copy_context()

    @property
    def concurrency(self) -> int:
        return self._sink.concurrency

    async def open(self) -> None:
        await self._wire.trip("store-open.asked")
        if "store" in self._weather.away:
            raise TransientError("the store is away")
        await self._sink.open()

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        await self._wire.trip("write.asked")
        loop = asyncio.get_running_loop()
        work = loop.create_task(self._serve(batch), context=self._context.copy())
        await asyncio.shield(work)
        await self._wire.trip("write.answered")

    async def marks(self, trace_ids: Sequence[bytes]) -> Mapping[bytes, Mapping[str, str]]:
        await self._wire.trip("marks.asked")
        if "store" in self._weather.away:
            raise TransientError("the store is away")
        found = await self._sink.marks(trace_ids)
        await self._wire.trip("marks.answered")
        return found

    async def marks_of_request(
        self, assessment: Assessment
    ) -> tuple[bytes, Mapping[str, str]] | None:
        await self._wire.trip("marks.asked")
        if "store" in self._weather.away:
            raise TransientError("the store is away")
        found = await self._sink.marks_of_request(assessment)
        await self._wire.trip("marks.answered")
        return found

    async def _serve(self, batch: Sequence[AssembledTrace]) -> None:
        weather = self._weather
        if "store" in weather.away:
            raise TransientError("the store is away")
        self._sink.delay_s = weather.slow_s or weather.chance.choice((0.0, 0.002, 0.03))
        if len(batch) > 1 and weather.strikes(weather.broken_off):
            part = batch[: weather.chance.randrange(1, len(batch))]
            await self._sink.write(part)
            self._told("stored a part, then broke off", part)
            raise TransientError("broke off")
        await self._sink.write(batch)
        lost = weather.strikes(weather.lost_answers)
        self._told("stored, and the answer was lost" if lost else "stored", batch)
        if lost:
            raise TransientError("the answer was lost")

    async def close(self) -> None:
        await self._wire.stand()


class LettersPort:
    """A DeadLetterLog; `written` is called with what the topic has got."""

    def __init__(
        self,
        wire: SimulatedWire,
        weather: Weather,
        written: Callable[[Sequence[DeadLetter]], None],
    ) -> None:
        self._wire = wire
        self._weather = weather
        self._written = written

    async def open(self) -> None:
        await self._wire.trip("letters-open.asked")

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        await self._wire.trip("letters.asked")
        if "letters" in self._weather.away:
            raise TransientError("the dead letters are away")
        self._written(letters)
        await self._wire.trip("letters.answered")

    async def close(self) -> None:
        await self._wire.stand()


class LedgerPort:
    """A LedgerLog over the shared topic; what was sent may have arrived though the answer was lost."""

    def __init__(self, wire: SimulatedWire, weather: Weather, ledger: MemoryLedger) -> None:
        self._wire = wire
        self._weather = weather
        self._ledger = ledger

    async def open(self) -> None:
        await self._wire.trip("ledger-open.asked")
        await self._ledger.open()

    async def load(self, partitions: Sequence[Partition]) -> KeptAccounts:
        await self._wire.trip("ledger-load.asked")
        return await self._ledger.load(partitions)

    async def save(self, entries: Sequence[Entry]) -> None:
        await self._wire.trip("ledger.asked")
        await self._ledger.save(entries)
        await self._wire.trip("ledger.answered")

    async def close(self) -> None:
        await self._wire.stand()


class DroppedPort:
    """A DroppedLog over the shared one."""

    def __init__(
        self, wire: SimulatedWire, log: MemoryDropped, told: Callable[[str], None]
    ) -> None:
        self._wire = wire
        self._log = log
        self._told = told

    async def open(self) -> None:
        await self._wire.trip("dropped-open.asked")

    async def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        await self._wire.trip("dropped.asked")
        await self._log.append(records)
        self._told(f"drops written down: {len(records)}")
        await self._wire.trip("dropped.answered")

    async def tail(self, partition: int) -> AsyncGenerator[Sequence[Record]]:
        await self._wire.trip("tail.asked")
        async for portion in self._log.tail(partition):
            yield portion
            await self._wire.trip("tail.asked")

    async def close(self) -> None:
        await self._wire.stand()


class WatchedSampler:
    """The worker's sampler. Decisions on the same records must be the same, else `differs` is called."""

    def __init__(
        self,
        sampler: Sampler,
        decisions: dict[object, object],
        dropped: Callable[[Sequence[Position]], None],
        differs: Callable[[str], None],
    ) -> None:
        self._sampler = sampler
        self._decisions = decisions
        self._dropped = dropped
        self._differs = differs

    def decide(self, trace: AssembledTrace, table: Table) -> Decision:
        decision = self._sampler.decide(trace, table)
        key = (trace.trace_id, trace.reason, trace.complete, tuple(sorted(trace.positions)))
        before = self._decisions.setdefault(key, decision)
        if before != decision:
            self._differs(f"decided {decision} of a trace of which it was {before}")
        return decision

    def apply(self, trace: AssembledTrace, decision: Decision) -> Kept:
        return self._noted(trace, self._sampler.apply(trace, decision))

    def follow(self, trace: AssembledTrace, earlier: Outcome) -> Kept:
        return self._noted(trace, self._sampler.follow(trace, earlier))

    def _noted(self, trace: AssembledTrace, kept: Kept) -> Kept:
        if kept.trace is None:
            self._dropped(trace.positions)
        return kept
