"""The breakers of decode and write: what would be dead waits here while it looks as if most were."""

import asyncio
import logging

from msgspec import Struct

from spanferry_worker.errors import FatalError
from spanferry_worker.runtime.lanes import Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.settings import Settings
from spanferry_worker.stages.breaker import DeadLetterBreaker
from spanferry_worker.stages.decode import Rejected
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent

__all__ = ["Breakers", "Case"]

_log = logging.getLogger("spanferry.dead_letters")
_SAID_MAX = 1_000


class Case(Struct, frozen=True):
    """Records to be dead-lettered, and the trace they made, if they made one."""

    rejected: Rejected
    lane_id: int
    size: int
    trace: AssembledTrace | None = None


class Breakers:
    """One for each stage. `changed` is set when there may be something to let through."""

    def __init__(
        self, parts: Parts, settings: Settings, lanes: Lanes, changed: asyncio.Event
    ) -> None:
        self._parts = parts
        self._hold_s = settings.dead_letters.hold_s
        self._lanes = lanes
        self._changed = changed
        self._by_stage: dict[str, DeadLetterBreaker[Case]] = {
            stage: DeadLetterBreaker(settings.dead_letters) for stage in ("decode", "write")
        }
        self._said: set[str] = set()
        self.held_bytes = 0
        """What waits here takes in memory."""

    def saw_good(self, stage: str, records: int) -> None:
        """What is well, of a stage."""
        breaker = self._by_stage[stage]
        breaker.saw_good(records)
        self._tell_ratio(stage)
        if breaker.holds:
            self._changed.set()

    def hold(self, stage: str, case: Case, records: int) -> None:
        """Take what would be dead. Raises FatalError where that is too much."""
        breaker = self._by_stage[stage]
        self._forget_lost(breaker)
        self.held_bytes += case.size
        tripped = breaker.hold(case, records, self._parts.clock.now_ms())
        self._tell_ratio(stage)
        self._changed.set()
        message = case.rejected.message
        if tripped:
            raise FatalError(
                f"{breaker.bad} of the last {breaker.seen} would go to the dead letters ({stage}: "
                f"{message}). Such a share is no accident: check the worker's version, the topic and "
                "the store, or raise dead_letters.ratio_max. Nothing more of it is sent or committed."
            )
        if not breaker.are_few:
            self._say_held(stage, message)

    def passing(self) -> list[Case]:
        """Those that may go now, in the order of each stage; what lies in lost partitions is forgotten."""
        cases: list[Case] = []
        for breaker in self._by_stage.values():
            self._forget_lost(breaker)
            cases += breaker.passing(self._parts.clock.now_ms())
        self.held_bytes -= sum(case.size for case in cases)
        return cases

    def due_s(self) -> float | None:
        """How long until one has waited long enough; None where none waits."""
        now_ms = self._parts.clock.now_ms()
        waits = [breaker.due_in_ms(now_ms) for breaker in self._by_stage.values()]
        return min((ms / 1000 for ms in waits if ms is not None), default=None)

    def _forget_lost(self, breaker: DeadLetterBreaker[Case]) -> None:
        """Whoever has the partition now reads it again."""
        dropped = breaker.drop(lambda case: self._lanes.owned(case.lane_id) is None)
        self.held_bytes -= sum(case.size for case in dropped)

    def _tell_ratio(self, stage: str) -> None:
        breaker = self._by_stage[stage]
        ratio = breaker.bad / max(1, breaker.seen)
        self._parts.metrics.dead_letters_ratio.labels(stage).set(ratio)

    def _say_held(self, stage: str, message: str) -> None:
        level = logging.DEBUG if message in self._said else logging.INFO
        if len(self._said) < _SAID_MAX:
            self._said.add(message)
        _log.log(
            level,
            "held back for %g s at most, until more records show whether most are dead: %s",
            self._hold_s,
            message,
            extra=LogEvent.DEAD_LETTER_HELD(stage=stage),
        )
