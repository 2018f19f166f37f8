"""Brings what cannot be stored to the dead letters, with its original bytes, before its offset moves."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from spanferry_schemas import Fragment, encode
from spanferry_worker.errors import (
    NoExperimentError,
    PoisonError,
    TraceNotFoundError,
    TransientError,
)
from spanferry_worker.ports import DeadLetter
from spanferry_worker.runtime.breakers import Breakers, Case
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Outcome
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.decode import DeadReason, Rejected
from spanferry_worker.stages.footprint import RECORD_BYTES
from spanferry_worker.stages.trace import AssembledTrace, Position
from spanferry_worker.telemetry import LogEvent

__all__ = ["DeadLetterOffice", "RebuiltRecord"]

_T = TypeVar("_T")
_log = logging.getLogger("spanferry.dead_letters")
_BATCH_MAX = 100
_READ_MAX = 16
"""Records that are read again at once: one may have a megabyte, and a trace thousands of them."""
_REMEMBERED_MAX = 1_000
"""Messages and names kept, so that each is said and counted once."""


class RebuiltRecord(Struct, frozen=True):
    """A record made again from its trace, because Kafka had removed the original."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class DeadLetterOffice:
    """Takes what is rejected, now; sends it in the background, until it is acknowledged."""

    def __init__(self, parts: Parts, settings: Settings, lanes: Lanes) -> None:
        self._parts = parts
        self._settings = settings
        self._lanes = lanes
        self._cases: deque[Case] = deque()
        self._cases_bytes = 0
        self._changed = asyncio.Event()
        self.breakers = Breakers(parts, settings, lanes, self._changed)
        """Through which goes what may be our fault."""
        self.idle = asyncio.Event()
        """Set while there is nothing to send. What a breaker holds is the next owner's."""
        self.idle.set()
        self._said: set[tuple[str, str]] = set()
        self._experiments: set[str] = set()
        self.on_progress: Callable[[], None] = lambda: None
        """Called whenever a case is closed."""
        self._gone: set[Position] = set()
        """Positions of open cases whose records Kafka had removed."""

    @property
    def held_bytes(self) -> int:
        """What waits here takes in memory."""
        return self._cases_bytes + self.breakers.held_bytes

    def take(self, rejected: Rejected, lane: Lane) -> None:
        """Records that give no event. Raises FatalError where too much would be dead."""
        record = rejected.record
        size = len(record.value) if record is not None and record.value else 0
        size += RECORD_BYTES * (1 + len(rejected.positions))
        self.breakers.hold("decode", Case(rejected, lane.lane_id, size), len(rejected.positions))
        self._enter(self.breakers.passing())

    def take_refused(self, trace: AssembledTrace, error: PoisonError, lane_id: int) -> None:
        """A trace that the store can never take. Raises FatalError as `take` does."""
        reason, may_be_ours = DeadReason.REFUSED, True
        if isinstance(error, NoExperimentError):
            reason = DeadReason.NO_EXPERIMENT
            may_be_ours = _is_new(error.experiment, self._experiments)
        elif isinstance(error, TraceNotFoundError):
            # Its trace may have been dropped, by a policy or in the app: no fault of the worker.
            reason, may_be_ours = DeadReason.NO_TRACE, False
        rejected = Rejected(reason, str(error), trace.positions)
        case = Case(rejected, lane_id, trace.memory_bytes, trace)
        if may_be_ours:
            self.breakers.hold("write", case, 1)
            self._enter(self.breakers.passing())
        else:
            self._enter([case])

    def _enter(self, cases: Sequence[Case]) -> None:
        """Among those that are to be sent."""
        if cases:
            self._cases += cases
            self._cases_bytes += sum(case.size for case in cases)
            self._changed.set()
            self.idle.clear()

    async def _wait(self) -> None:
        """Until there is something to send."""
        while True:
            self._enter(self.breakers.passing())
            self._changed.clear()
            if self._cases:
                return
            await wait_for_event(self._changed, self.breakers.due_s())

    async def run(self) -> None:
        """Send what comes, for ever."""
        attempt = 0
        while True:
            await self._wait()
            cases = self._next()
            try:
                await self._send([c for c in cases if self._lanes.owned(c.lane_id) is not None])
            except TransientError as error:
                attempt += 1
                delay_s = self._settings.retry.delay_s(attempt, self._parts.chance.random())
                _log.warning(
                    "dead letters wait, next try in %.1f s: %s",
                    delay_s,
                    error,
                    extra=LogEvent.DEAD_LETTER_FAILED(next_try_s=delay_s),
                )
                await asyncio.sleep(delay_s)
                continue
            attempt = 0
            for case in cases:
                self._close(case)
            if not self._cases:
                self.idle.set()
            self.on_progress()

    def _next(self) -> list[Case]:
        """What is sent together: records at hand, or the one trace whose records are read again."""
        cases: list[Case] = []
        for case in self._cases:
            read_again = case.rejected.record is None
            if cases and (read_again or len(cases) == _BATCH_MAX):
                break
            cases.append(case)
            if read_again:
                break
        return cases

    def _close(self, case: Case) -> None:
        self._cases.popleft()
        self._cases_bytes -= case.size
        lane = self._lanes.owned(case.lane_id)
        if lane is not None:
            gone = self._gone.intersection(case.rejected.positions)
            lane.settle(list(gone), Outcome.LOST)
            lane.settle(case.rejected.positions, Outcome.DEAD_LETTERED)
            self._gone -= gone

    async def _send(self, cases: Sequence[Case]) -> None:
        letters: list[DeadLetter] = []
        for case in cases:
            if case.rejected.record is None:
                await self._send_read_again(case)
            else:
                letters.append(self._letter(case, case.rejected.record))
        await self._send_letters(letters)

    def _letter(self, case: Case, record: Record) -> DeadLetter:
        reason, message = case.rejected.reason.value, case.rejected.message
        return DeadLetter(record, reason, message, self._parts.clock.now_ms())

    async def _send_letters(self, letters: Sequence[DeadLetter]) -> None:
        if not letters:
            return
        await self._parts.letters.send(letters)
        for letter in letters:
            self._parts.metrics.dead_letters.labels(letter.reason).inc()
            record = letter.record
            where = LogEvent.DEAD_LETTER_SENT(
                reason=letter.reason, partition=record.partition, offset=record.offset
            )
            first = _is_new((letter.reason, letter.message), self._said)
            level = logging.WARNING if first else logging.DEBUG
            _log.log(level, "dead letter (%s): %s", letter.reason, letter.message, extra=where)

    async def _send_read_again(self, case: Case) -> None:
        """The records as they lie in Kafka, few at a time; rebuilt where Kafka has removed them."""
        positions = case.rejected.positions
        found: set[tuple[int, int]] = set()
        for begin in range(0, len(positions), _READ_MAX):
            records = await self._parts.log.read(positions[begin : begin + _READ_MAX])
            found.update((record.partition, record.offset) for record in records)
            await self._send_letters([self._letter(case, record) for record in records])
        gone = [p for p in positions if (p.partition, p.offset) not in found]
        if gone:
            self._say_lost(positions[0], len(gone))
        if found or case.trace is None or case.trace.trace_id is None:
            self._gone.update(gone)
        else:
            await self._send_letters([self._letter(case, self._rebuilt(case.trace, positions[0]))])

    def _say_lost(self, first: Position, missing: int) -> None:
        self._parts.metrics.dead_letters_lost.inc(missing)
        where = LogEvent.DEAD_LETTER_GONE(
            partition=first.partition, offset=first.offset, missing=missing
        )
        _log.error("records for the dead letters are no longer in Kafka", extra=where)

    def _rebuilt(self, trace: AssembledTrace, first: Position) -> RebuiltRecord:
        value = encode(Fragment(trace.trace_id or b"", trace.spans, trace.trace))
        now_ms = self._parts.clock.now_ms()
        topic, partition, offset = first
        return RebuiltRecord(topic, partition, offset, now_ms, trace.trace_id, value, [])


def _is_new(one: _T, seen: set[_T]) -> bool:
    """Whether it comes for the first time; after very many they all do again."""
    if one in seen:
        return False
    if len(seen) >= _REMEMBERED_MAX:
        seen.clear()
    seen.add(one)
    return True
