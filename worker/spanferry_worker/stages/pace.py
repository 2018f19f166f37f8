"""How much is written at once: many writes while the store works, large ones while it is fast.

A store that comes back must not meet everything at once that has waited for it. While it fails one write
at a time asks whether it is there; each that succeeds lets one more run beside it.
"""

from typing import Final

__all__ = ["BatchPace", "WritePace", "paced"]

_AIM_S: Final = 2.0
_FIRST_SHARE: Final = 1 / 32
_FULL: Final = 0.9


class WritePace:
    """One for all tasks that write: `begin` before each write, and where that is True `end` after it."""

    __slots__ = ("_most", "allowed", "running")

    def __init__(self, most: int) -> None:
        self._most = most
        self.allowed = most
        """How many may run now."""
        self.running = 0

    def begin(self) -> bool:
        """Whether one more may run now; it is counted then."""
        if self.running >= self.allowed:
            return False
        self.running += 1
        return True

    def end(self, *, available: bool) -> None:
        """A write is over. `available`: the store has answered, be it that it refuses."""
        self.running -= 1
        self.allowed = min(self._most, self.allowed + 1) if available else 1


def paced(allowed: float, used: float, took_s: float, *, aim_s: float, full: float = 1.0) -> float:
    """How much the next batch may have, where `used` of the `allowed` took so long: as much as takes `aim_s`,
    or twice as much where a batch that was `full`, a part of the allowed, took less than half of that."""
    if took_s > aim_s:
        return min(allowed, used * aim_s / took_s)
    return allowed * 2 if took_s < aim_s / 2 and used >= allowed * full else allowed


class BatchPace:
    """How large a batch may be so that its write takes two seconds at most, as far as writes have shown.

    What is under way when a partition goes to another worker, or when the process dies, is written again.
    Were that most of what is written between two rebalances, no offset would ever move.
    """

    __slots__ = ("_least", "share")

    def __init__(self, traces_max: int) -> None:
        self._least = 1 / traces_max
        self.share = max(_FIRST_SHARE, self._least)
        """Of what a batch may be at most."""

    def wrote(self, traces: int, fill: float, took_s: float, *, available: bool) -> None:
        """A write of so many traces is over. `fill`: what part of the largest batch they are. `available`:
        the store has answered."""
        share = paced(self.share, fill, took_s, aim_s=_AIM_S, full=_FULL)
        is_smallest = traces == 1
        if (share < self.share and is_smallest) or (share > self.share and not available):
            return
        self.share = min(1.0, max(self._least, share))
