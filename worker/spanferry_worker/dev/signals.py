"""Signals that end a command, as one exception that unwinds what has been started."""

import contextlib
import signal
from collections.abc import Generator
from typing import Final

__all__ = ["Stopped", "stop_on_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asks for the end. Raised once; later signals do not disturb the clearing up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def stop_on_signals() -> Generator[None]:
    """Within the block the first SIGINT, SIGTERM or SIGHUP raises Stopped in the main thread."""

    def stop(number: int, _frame: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
