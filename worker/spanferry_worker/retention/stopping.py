"""Being asked to stop (SIGTERM, Ctrl-C) between two batches instead of within one."""

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

__all__ = ["Stop"]


class Stop:
    """Asked once, what is under way is ended in order; asked again, at once (KeyboardInterrupt)."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether we are to stop."""
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Let so many seconds pass, or fewer where we are asked to stop; whether we are."""
        return self._asked.wait(seconds)

    @contextlib.contextmanager
    def listening(self) -> Generator[None]:
        """Signals ask us, within this context. Only a process's main thread hears them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
