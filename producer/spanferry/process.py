"""What belongs to one process: its source of ids, and which fork it is."""

import os
import random
from typing import Final

from spanferry_schemas.limits import SPAN_ID_BYTES

__all__ = ["PROCESS", "new_assessment_id", "new_span_id", "random_bits"]

_random: Final = random.Random()  # noqa: S311  ids, not secrets
random_bits: Final = _random.getrandbits
"""An integer of so many random bits; other ones in every forked process."""


class _Process:
    """What differs between a process and those it is forked into."""

    __slots__ = ("forks",)

    def __init__(self) -> None:
        self.forks = 0
        """Forks between the first process that imported this and the one that looks."""


PROCESS: Final = _Process()


def new_span_id() -> bytes:
    """8 random bytes, not all zero."""
    return (random_bits(64) or 1).to_bytes(SPAN_ID_BYTES, "big")


def new_assessment_id() -> str:
    """An assessment's id as MLflow makes it: `a-` and 32 hexadecimal digits."""
    return f"a-{random_bits(128):032x}"


def _after_fork() -> None:
    PROCESS.forks += 1
    _random.seed()


os.register_at_fork(after_in_child=_after_fork)
