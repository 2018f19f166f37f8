"""The system's clock as the port wants it."""

import time

__all__ = ["SystemClock"]


class SystemClock:
    """The wall clock at the start, carried on by the monotonic one: it never jumps or goes back."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000
