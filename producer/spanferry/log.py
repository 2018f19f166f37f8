"""Saying a thing once, loudly, and never on the app's request path more than a set lookup."""

import logging
from typing import Final

__all__ = ["logger", "say_once"]

logger: Final = logging.getLogger("spanferry")

_said: set[str] = set()


def say_once(key: str, message: str, *args: object, level: int = logging.WARNING) -> None:
    """Log `message` the first time that `key` comes; later calls cost one set lookup."""
    if key in _said:
        return
    _said.add(key)
    logger.log(level, message, *args)
