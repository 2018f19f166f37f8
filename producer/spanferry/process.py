"""What belongs to one process: its source of ids, which fork it is, and what its spans look at."""

import os
import random
import sys
from itertools import chain
from struct import Struct
from time import perf_counter_ns, time_ns
from typing import Any, Final

from spanferry_schemas.limits import SPAN_ID_BYTES, TRACE_ID_BYTES

__all__ = [
    "PROCESS",
    "new_assessment_id",
    "new_span_id",
    "new_trace_id",
    "random_bits",
    "read_clock",
    "supply_ids",
]

_CLOCK_SLACK_NS: Final = 100_000
"""A thread that was away for longer between its two looks at the clocks looks again next time."""

_TRACE_IDS: Final = 128
_SPAN_IDS: Final = 640
"""Ids that lie ready, at most: what some thousand traces a second use until the sender looks again."""

_TRACE_ID: Final = Struct(f"{TRACE_ID_BYTES}s")
_SPAN_ID: Final = Struct(f"{SPAN_ID_BYTES}s")

_random: Final = random.Random()  # noqa: S311  ids, not secrets
random_bits: Final = _random.getrandbits
"""An integer of so many random bits; other ones in every forked process."""


class _Process:
    """What every span looks at, in one object: the first one after a rest waits for the memory of
    each object that it touches."""

    __slots__ = (
        "bridged",
        "clock_followed",
        "clock_ns",
        "detours",
        "finish_above",
        "finisher",
        "forks",
        "giants",
        "models",
        "plain",
        "roomy",
        "scopes",
        "slow_values",
        "span_ids",
        "trace_ids",
        "watch",
    )

    def __init__(self) -> None:
        self.forks = 0
        """Forks between the first process that imported this and the one that looks."""
        self.models = False
        """A model has been made active; never taken back."""
        self.scopes = False
        """`spanferry.context` has been entered; never taken back."""
        self.bridged = False
        """MLflow's API goes through spanferry."""
        self.detours = False
        """One of the two: spans do not start on the shortest way."""
        self.clock_ns = 0
        """What to add to perf_counter_ns() for nanoseconds since 1970: see `read_clock`."""
        self.clock_followed = False
        """A sender reads it again and again."""
        self.finish_above = sys.maxsize
        """Spans with more bytes than that are shown to the finisher before they are handed over; below
        zero all are, and whole traces too."""
        self.finisher: Any = None
        """Redacts and cuts, as the outlet that was installed last has it: spans that end after
        `disable()` are not let go otherwise."""
        self.trace_ids: list[bytes] = []
        self.span_ids: list[bytes] = []
        """Ids that lie ready: see `supply_ids`. Empty where no sender runs."""
        self.roomy = False
        """So little waits to be sent that texts may keep the memory which orjson took for them."""
        self.giants: set[str] = set()
        """Names of spans whose values were giant: see `giants`."""
        self.slow_values = False
        """A value was recorded on a slow way since the budget guard looked last."""
        self.watch: Any = None
        """An account for the next trace: see `watching`. Who sets it says None to `plain` afterwards."""
        self.plain: Any = None
        """The defaults of new traces where nothing else holds for them. Who changes that says None
        here, at last."""


PROCESS: Final = _Process()


def read_clock() -> None:
    """Look at the wall clock, for traces that start from now on; in an open one time goes on evenly.

    The sender does so twice a second; before it runs, whoever starts a trace the long way.
    """
    before_ns = perf_counter_ns()
    now_ns = time_ns()
    after_ns = perf_counter_ns()
    if after_ns - before_ns < _CLOCK_SLACK_NS or PROCESS.clock_ns == 0:
        PROCESS.clock_ns = now_ns - (before_ns + after_ns) // 2


def supply_ids() -> None:
    """Have ids ready for what starts from now on: after a rest making one takes an app's thread as
    long as the rest of its span. Where they are used up everyone makes his own."""
    for ids, ready_max, form in (
        (PROCESS.trace_ids, _TRACE_IDS, _TRACE_ID),
        (PROCESS.span_ids, _SPAN_IDS, _SPAN_ID),
    ):
        missing = ready_max - len(ids)
        if missing > 0:
            made = chain.from_iterable(form.iter_unpack(os.urandom(missing * form.size)))
            ids.extend(filter(any, made))  # none is all zero


def new_trace_id() -> bytes:
    """16 random bytes, not all zero: those that lie ready first."""
    try:
        return PROCESS.trace_ids.pop()
    except IndexError:
        return (random_bits(128) or 1).to_bytes(TRACE_ID_BYTES, "big")


def new_span_id() -> bytes:
    """8 random bytes, not all zero."""
    return (random_bits(64) or 1).to_bytes(SPAN_ID_BYTES, "big")


def new_assessment_id() -> str:
    """An assessment's id as MLflow makes it: `a-` and 32 hexadecimal digits."""
    return f"a-{random_bits(128):032x}"


def _after_fork() -> None:
    PROCESS.forks += 1
    PROCESS.plain = PROCESS.watch = None
    PROCESS.trace_ids.clear()  # the parent uses these
    PROCESS.span_ids.clear()
    PROCESS.clock_followed = False
    _random.seed()


os.register_at_fork(after_in_child=_after_fork)
