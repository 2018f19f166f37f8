"""How many writes run at once: all while the store works, one while it does not.

A store that comes back must not meet everything at once that has waited for it. While it fails one write
at a time asks whether it is there; each that succeeds lets one more run beside it.
"""

__all__ = ["WritePace"]


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
