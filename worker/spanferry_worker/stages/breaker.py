"""The breaker before the dead letters: where most would be dead, the fault is not the records'."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

__all__ = ["BreakerPolicy", "DeadLetterBreaker"]

_T = TypeVar("_T")


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """When so much would be dead that the worker stops, and sends no more of it."""

    ratio_max: float = 0.5
    """The worker stops with a clear error when more than this part of the last `window` would be
    dead: then a setting or a version is wrong, not the records."""
    window: int = 1_000
    count_min: int = 50
    """... and at least this many are."""
    hold_s: float = 10.0
    """As long as more than `ratio_max` would be dead, but fewer than `count_min`, or too few records have
    come to tell, each waits for so long before it is sent. Where the worker stops meanwhile none of these is
    sent or committed."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio_max <= 1:
            raise ValueError("ratio_max must be above 0 and at most 1 (1 switches the breaker off)")
        if not 1 <= self.count_min <= self.window:
            raise ValueError("count_min must be at least 1 and at most window")
        if self.hold_s < 0:
            raise ValueError("hold_s must not be negative")


class _Held(Struct, Generic[_T], frozen=True):
    """What waits, how many records it is, and since when."""

    case: _T
    records: int
    since_ms: int


class DeadLetterBreaker(Generic[_T]):
    """Lets the dead through as long as they are few; holds them while they are most, and says when to stop.

    Looks at the last `window` records, in blocks, so that it forgets; what waits here is in no block yet.
    Below `count_min` dead ones it never trips, and they are not called few before so many records have come
    that they could be `ratio_max` of these.

    While most are dead, fewer than `count_min` are let through in any `hold_s`, however often it is begun
    anew: they have all waited together.
    """

    _BLOCKS = 10

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._hold_ms = int(policy.hold_s * 1000)
        self._enough = policy.count_min / policy.ratio_max
        self._block_size = max(1, policy.window // self._BLOCKS)
        self._blocks: deque[list[int]] = deque([[0, 0]])
        self._held: deque[_Held[_T]] = deque()
        self.seen = 0
        """All in the window, and what waits."""
        self.bad = 0
        """Dead ones of these."""

    @property
    def holds(self) -> bool:
        """Whether anything waits."""
        return bool(self._held)

    def saw_good(self, records: int) -> None:
        """Count what is well."""
        self.seen += records
        self._enter(records, 0)

    def hold(self, case: _T, records: int, now_ms: int) -> bool:
        """Take what would be dead; ask `passing` what may go. True: stop, it is too much."""
        self._held.append(_Held(case, records, now_ms))
        self.seen += records
        self.bad += records
        return self.bad >= self._policy.count_min and self._is_over

    @property
    def _is_over(self) -> bool:
        return self.bad > self.seen * self._policy.ratio_max

    @property
    def are_few(self) -> bool:
        """Whether the dead are so few that they need not wait, and that is certain."""
        return self._policy.ratio_max == 1 or (self.seen >= self._enough and not self._is_over)

    def passing(self, now_ms: int) -> list[_T]:
        """Those that may go, in order: all while they are few, else who has waited. They leave here."""
        cases: list[_T] = []
        while self._held and (self.are_few or now_ms - self._held[0].since_ms >= self._hold_ms):
            held = self._held.popleft()
            cases.append(held.case)
            self._enter(held.records, held.records)
        return cases

    def due_in_ms(self, now_ms: int) -> int | None:
        """When the next one has waited long enough; None where none waits."""
        return max(0, self._held[0].since_ms + self._hold_ms - now_ms) if self._held else None

    def drop(self, unwanted: Callable[[_T], bool]) -> list[_T]:
        """Forget those of what waits; it is as if they had never come. Returns them."""
        dropped = [held for held in self._held if unwanted(held.case)]
        if dropped:
            self._held = deque(held for held in self._held if not unwanted(held.case))
            gone = sum(held.records for held in dropped)
            self.seen -= gone
            self.bad -= gone
        return [held.case for held in dropped]

    def _enter(self, seen: int, bad: int) -> None:
        """Records into the window, which `seen` and `bad` have counted."""
        block = self._blocks[-1]
        block[0] += seen
        block[1] += bad
        if block[0] >= self._block_size:
            self._blocks.append([0, 0])
            if len(self._blocks) > self._BLOCKS:
                forgotten, dead = self._blocks.popleft()
                self.seen -= forgotten
                self.bad -= dead
