"""A clock that goes when it is told to."""

__all__ = ["ManualClock"]


class ManualClock:
    """Stands still until `advance`."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._now_ms

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._now_ms += int(seconds * 1000)
