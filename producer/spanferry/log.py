"""Saying a thing once, loudly, and never on the app's request path more than a set lookup."""

import contextvars
import logging
import time
from typing import Final

__all__ = ["logger", "say_hourly", "say_once"]

logger: Final = logging.getLogger("spanferry")

_AGAIN_S: Final = 3600.0

_said: set[str] = set()
_said_at_s: dict[str, float] = {}


def say_once(key: str, message: str, *args: object, level: int = logging.WARNING) -> None:
    """Log `message` the first time that `key` comes; later calls cost one set lookup."""
    if key in _said:
        return
    _said.add(key)
    logger.log(level, message, *args)


def say_hourly(key: str, message: str, *args: object, level: int = logging.WARNING) -> None:
    """Log `message` unless that was done within the last hour: for what loses traces, and may come
    again weeks later. Costs a look at the clock."""
    now_s = time.monotonic()
    said_at_s = _said_at_s.get(key)
    if said_at_s is not None and now_s - said_at_s < _AGAIN_S:
        return
    _said_at_s[key] = now_s
    logger.log(level, message, *args)


class _NotOfTheSender(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002  its interface
        return not _quiet.get()


_quiet: Final = contextvars.ContextVar("spanferry_quiet", default=False)
_not_of_the_sender: Final = _NotOfTheSender()


def quiet(prefix: str) -> None:
    """Silence what a library logs in this task and in those that it begins; the app's own use of it
    stays as loud as it was, on whatever thread.

    The sender says itself, once, what is wrong; the library would repeat it for every attempt.
    """
    _quiet.set(True)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith(prefix)]:
        logging.getLogger(name).addFilter(_not_of_the_sender)  # once: a logger knows its filters
