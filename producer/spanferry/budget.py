"""The budget guard: keeps what recording costs the app's threads within its budget.

It looks at the accounts of watched traces, and where the 99th percentile nears the budget it has less
recorded of the values that are slow to record; spans, times, status and all that is cheap stay whole.
Once in a while it tries whether more can be afforded again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from spanferry.finishing import SHORTENINGS, shorten
from spanferry.log import logger
from spanferry.process import PROCESS, random_bits
from spanferry.values import text
from spanferry.watching import Account

__all__ = ["WATCH_ONE_OF", "WATCH_ONE_OF_SLOW", "Guard", "Overhead", "Verdict", "follow"]

BUDGET_BYTES: Final = 10_000
"""The budget is for so many bytes of a trace's values; a smaller trace has it whole."""

SAMPLES_MAX: Final = 1_000
"""Watched traces, the newest ones, of which percentiles are made."""

_RECENT_MAX: Final = 300
"""Watched traces on which a decision is based, at most."""

_NEAR: Final = 0.8
"""Share of the budget from which on a trace is near it."""

_WITNESSES: Final = 3
"""Fewer traces near the budget decide nothing: a thread may be kept waiting by anything."""

_SHARE: Final = 0.01
"""More traces than this share near the budget: that is the 99th percentile."""

_WAITING_SHARE: Final = 0.2
"""Where threads do not compute but wait it may be for one another. Then so many must be near."""

_SURE_S: Final = 1.0
"""So long CPU time is measured before the first step: what is slow is often slow only the first time, in a
process that has just begun, on a route that nobody had asked for."""

_CALM: Final = 100
"""After so many traces of which none is near, CPU time need not be measured any more."""

_HOLD_S: Final = 5.0
_HOLD_S_MAX: Final = 600.0
"""How long less is recorded before more is tried again; doubled each time that this was too early."""

_EASING_S: Final = 2.0
"""From one step back to the next, as long as nothing nears the budget."""

_TOO_EARLY_S: Final = 60.0

_WATCH_EACH_S: Final = 0.1
"""About ten traces a second are watched, ..."""

WATCH_ONE_OF: Final = 128
"""... and no more than one of so many: watching costs some 6 us a span, which the 99th percentile is not
to be made of."""

WATCH_ONE_OF_SLOW: Final = 16
"""... or of so many where values are recorded on a slow way: all spans together pay less than 1 us each."""

_NAME_CHARS_MAX: Final = 250
"""Of the slowest span's name, which is kept and said."""

_SLOW_S: Final = 10.0
"""So long after such a value."""


class Verdict(Enum):
    """What `Guard.look` has decided."""

    KEEP = "keep"
    LESS = "less"
    MORE = "more"
    IN_VAIN = "in vain"
    """The least was recorded, and it made no difference: everything is recorded again."""


class Overhead(Struct, frozen=True):
    """What recording costs the app's threads, of the newest watched traces. None before the first.

    A watched trace pays some microseconds more than the others: for the clocks, and on a way to start
    a span that is not the shortest.
    """

    watched: int = 0
    """Traces watched since `enable()`."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    p99_ms_per_10kb: float | None = None
    """The 99th percentile of each trace's time, for 10,000 bytes of its values or what it has less."""
    level: int = 0
    """0: all is recorded as configured; above: less of the values that are slow to record."""


class _Sample(Struct, gc=False):
    cost_ms: float
    share: float
    """Of the budget."""
    cpu_share: float
    """The same of what the threads computed for the values. Below zero where it is not known."""
    per_10kb_ms: float
    slowest: str

    @property
    def near(self) -> bool:
        return self.share >= _NEAR

    @property
    def near_by_cpu(self) -> bool:
        return self.cpu_share >= _NEAR


_NOTHING: Final = _Sample(0.0, 0.0, -1.0, 0.0, "")


class Guard:
    """For one sender, which alone calls `look` and `arm`; `overhead` may be asked by any thread."""

    def __init__(self, budget_ms: float) -> None:
        self._budget_ms = budget_ms
        self._inbox: deque[Account] = deque(maxlen=SAMPLES_MAX)
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._recent: deque[_Sample] = deque(maxlen=_RECENT_MAX)
        self._watched = 0
        self._overhead = Overhead()
        self.dearest = _NOTHING
        """Of the traces on which the latest change was based."""
        self._with_cpu = False
        self._sure_from_s = float("-inf")
        self.level = 0
        self._since_s = 0.0
        self._hold_s = _HOLD_S
        self._eased_s = float("-inf")
        self._resting_until_s = float("-inf")
        self._watched_at = -WATCH_ONE_OF
        self._slow_until_s = float("-inf")

    def is_due(self, traces: int, now_s: float) -> bool:
        """Whether the next trace is worth watching; so many have ended. Who asks then watches it."""
        if PROCESS.slow_values:
            PROCESS.slow_values, self._slow_until_s = False, now_s + _SLOW_S
        one_of = WATCH_ONE_OF_SLOW if now_s < self._slow_until_s else WATCH_ONE_OF
        if not self._with_cpu and self.level == 0 and traces < self._watched_at + one_of:
            return False
        self._watched_at = traces
        return True

    def account(self) -> Account:
        """For the next trace."""
        return Account(self._inbox, self._with_cpu)

    def look(self, now_s: float) -> Verdict:
        """Read the accounts that have come, and decide. `level` is then what is to be in force."""
        news = self._read()
        as_before = not (news or self._with_cpu or self.level)  # which most times are
        if as_before or self._budget_ms <= 0 or now_s < self._resting_until_s:
            return Verdict.KEEP
        if self._is_over():
            if not self._with_cpu:
                self._with_cpu = True  # make sure that it is the values, and not the machine
                self._sure_from_s = now_s + _SURE_S
                self._recent.clear()
                return Verdict.KEEP
            if now_s >= self._sure_from_s:
                return self._less(now_s)
            return Verdict.KEEP
        near = sum(sample.near for sample in self._recent)
        if self._with_cpu and self.level == 0 and near == 0 and len(self._recent) >= _CALM:
            self._with_cpu = False
        eased = self._since_s == self._eased_s
        hold_s = _EASING_S if eased else self._hold_s
        if self.level > 0 and now_s - self._since_s >= hold_s and len(self._recent) >= _WITNESSES:
            return self._more(now_s)
        return Verdict.KEEP

    @property
    def overhead(self) -> Overhead:
        """What is known now."""
        known = self._overhead
        if known.watched == self._watched and known.level == self.level:
            return known
        samples = list(self._samples)
        if not samples:
            return Overhead(self._watched, level=self.level)
        costs = sorted(sample.cost_ms for sample in samples)
        by_size = sorted(sample.per_10kb_ms for sample in samples)
        self._overhead = known = Overhead(
            self._watched,
            round(_percentile(costs, 0.5), 4),
            round(_percentile(costs, 0.99), 4),
            round(_percentile(by_size, 0.99), 4),
            self.level,
        )
        return known

    def _read(self) -> bool:
        """Whether there was anything new."""
        watched = self._watched
        while self._inbox:
            account = self._inbox.popleft()
            sample = self._sample_of(account)
            self._watched += 1
            self._samples.append(sample)
            if account.with_cpu or not self._with_cpu:
                self._recent.append(sample)
        return self._watched > watched

    def _sample_of(self, account: Account) -> _Sample:
        size = max(account.payload_bytes / BUDGET_BYTES, 1.0)
        cost_ms = account.cost_ns / 1e6
        budget_ms = max(self._budget_ms, 1e-9) * size
        of_values = account.values_ns * 2 >= account.cost_ns
        return _Sample(
            cost_ms,
            cost_ms / budget_ms if of_values else 0.0,
            account.cpu_ns / 1e6 / budget_ms if account.with_cpu else -1.0,
            cost_ms / size,
            text(account.slowest)[:_NAME_CHARS_MAX],
        )

    def _is_over(self) -> bool:
        recent = self._recent
        near = sum(sample.near for sample in recent)
        if not self._with_cpu:
            return near >= _WITNESSES and near > _SHARE * len(recent)
        computing = sum(sample.near_by_cpu for sample in recent)
        if computing >= _WITNESSES and computing > _SHARE * len(recent):
            return True
        return near >= _WITNESSES and near >= _WAITING_SHARE * len(recent)

    def _less(self, now_s: float) -> Verdict:
        if self.level == len(SHORTENINGS):
            self._change(0, now_s)
            self._with_cpu, self._resting_until_s = False, now_s + _HOLD_S_MAX
            return Verdict.IN_VAIN
        if now_s - self._eased_s < _TOO_EARLY_S:
            self._hold_s = min(self._hold_s * 2, _HOLD_S_MAX)
        elif self.level == 0:
            self._hold_s = _HOLD_S
        self._change(self.level + 1, now_s)
        return Verdict.LESS

    def _more(self, now_s: float) -> Verdict:
        self._eased_s = now_s
        self._change(self.level - 1, now_s)
        return Verdict.MORE

    def _change(self, level: int, now_s: float) -> None:
        self.level, self._since_s = level, now_s
        self.dearest = max(self._recent, key=lambda sample: sample.share, default=_NOTHING)
        self._recent.clear()


async def follow(guard: Guard, traces: Callable[[], int]) -> None:
    """Have a trace watched every now and then, and what the guard decides done, until cancelled.

    `traces` tells how many have ended.
    """
    try:
        while True:
            await asyncio.sleep(_WATCH_EACH_S * (0.5 + random_bits(16) / 0x1_0000))
            now_s = time.monotonic()
            verdict = guard.look(now_s)
            if verdict is not Verdict.KEEP:
                _say(verdict, guard.level, guard.dearest)
                shorten(guard.level)
            if guard.is_due(traces(), now_s):
                PROCESS.watch = guard.account()
            if PROCESS.watch is not None:
                PROCESS.plain = None
    finally:
        PROCESS.watch = None
        shorten(0)


def _say(verdict: Verdict, level: int, dearest: _Sample) -> None:
    if verdict is Verdict.LESS and level == 1:
        logger.warning(
            "recording takes up to %.1f ms for 10 KB, which nears the budget of budget_ms: less is "
            "recorded of values that are slow to record, and their traces say so in "
            "`spanferry.shortened`. Slowest was span %s: record plain data there (dict, list, text), "
            "or less of it",
            dearest.per_10kb_ms,
            dearest.slowest,
        )
    elif verdict is Verdict.MORE and level == 0:
        logger.warning("recording is within its budget again: values are recorded as configured")
    elif verdict is Verdict.IN_VAIN:
        logger.warning(
            "recording takes up to %.1f ms for 10 KB, and recording less of its values makes it no "
            "faster: they are recorded as configured. Slowest was span %s",
            dearest.per_10kb_ms,
            dearest.slowest,
        )


def _percentile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]
