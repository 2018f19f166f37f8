"""How long traces of a name take: histograms of logarithms, and their 99th percentile."""

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["Durations", "duration_bin"]

_BASE: Final = math.log(1.05)
"""Each bin is 5 % wide: so exact are the percentiles."""
_PERCENTILE: Final = 0.99
_COUNT_MIN: Final = 100.0
"""Fewer say nothing about the slowest hundredth."""
_NAMES_MAX: Final = 500
_KEPT: Final = 0.9
"""What is left of a count when the limits are made anew, so that old days are forgotten."""
_FLOOR_S: Final = 1e-6


def duration_bin(duration_s: float) -> int:
    """Which bin counts a duration."""
    return math.floor(math.log(max(_FLOOR_S, duration_s)) / _BASE)


class Durations:
    """By name; of most names where there are too many, those seen most."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, float]] = {}

    def add(self, counts: Mapping[str, Mapping[int, int]]) -> None:
        """More traces, by name and bin."""
        for name, bins in counts.items():
            known = self._counts.setdefault(name, {})
            for number, count in bins.items():
                known[number] = known.get(number, 0.0) + count

    def age(self) -> None:
        """Make what was seen count less."""
        aged: dict[str, dict[int, float]] = {}
        for name, bins in self._counts.items():
            kept = {number: count * _KEPT for number, count in bins.items() if count * _KEPT > 0.05}
            if kept:
                aged[name] = kept
        if len(aged) > _NAMES_MAX:
            most = sorted(aged, key=lambda name: (-sum(aged[name].values()), name))[:_NAMES_MAX]
            aged = {name: aged[name] for name in most}
        self._counts = aged

    def limits_s(self) -> dict[str, float]:
        """The 99th percentile by name, where enough was seen."""
        found: dict[str, float] = {}
        for name, bins in self._counts.items():
            total = sum(bins.values())
            if total >= _COUNT_MIN:
                found[name] = _percentile_s(bins, total)
        return found


def _percentile_s(bins: Mapping[int, float], total: float) -> float:
    left = total * (1.0 - _PERCENTILE)
    for number in sorted(bins, reverse=True):
        left -= bins[number]
        if left <= 0:
            return math.exp((number + 1) * _BASE)
    return math.exp((min(bins) + 1) * _BASE)
