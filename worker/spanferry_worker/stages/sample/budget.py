"""A byte budget as a threshold: how large a trace may be to be stored whole for sure."""

import math
from typing import Final

from msgspec import Struct

__all__ = ["UNBOUND", "Demand", "Offers", "size_bin", "solve"]

UNBOUND: Final = 2.0**60
"""A target that no trace is larger than."""
_BINS_PER_DOUBLING: Final = 8
_STEPS: Final = 60
_SKELETON_BYTES: Final = 4_096
"""What a skeleton may take, as long as none of this size was seen."""


class Offers(Struct, array_like=True, frozen=True, gc=False):
    """Traces of about one size that met a rule with a budget."""

    count: int = 0
    size: int = 0
    """Their bytes."""
    rest: int = 0
    """Bytes stored of those that were not stored whole: of their skeletons, or none."""
    cut: int = 0
    """How many these were."""

    def __add__(self, more: "Offers") -> "Offers":
        return Offers(
            self.count + more.count,
            self.size + more.size,
            self.rest + more.rest,
            self.cut + more.cut,
        )

    def stored(self, target: float) -> float:
        """The bytes that would have been stored of them with a target, on average."""
        share = min(1.0, target * self.count / max(1, self.size))
        known = self.rest / self.cut if self.cut else _SKELETON_BYTES
        rest = known * self.count
        return share * self.size + (1.0 - share) * min(rest, self.size)


class Demand(Struct, array_like=True, frozen=True):
    """What there was to store in one bucket, and what was."""

    offers: dict[int, Offers] = {}
    """By `size_bin`."""
    other: int = 0
    """Bytes that rules without a budget have stored."""
    stored: int = 0
    """All bytes stored."""

    def __add__(self, more: "Demand") -> "Demand":
        offers = dict(self.offers)
        for number, new in more.offers.items():
            old = offers.get(number)
            offers[number] = new if old is None else old + new
        return Demand(offers, self.other + more.other, self.stored + more.stored)

    @property
    def offered_bytes(self) -> int:
        """What it would take to store all whole."""
        return self.other + sum(one.size for one in self.offers.values())


def size_bin(size: int) -> int:
    """Which Offers a trace of this many bytes is counted with."""
    return int(math.log2(max(1, size)) * _BINS_PER_DOUBLING)


def expected(demand: Demand, target: float) -> float:
    """The bytes that would have been stored with a target, on average."""
    return demand.other + sum(one.stored(target) for one in demand.offers.values())


def solve(demand: Demand, room: float) -> float:
    """The target with which `room` bytes would have been stored: at least 1, at most UNBOUND."""
    if expected(demand, UNBOUND) <= room:
        return UNBOUND
    low, high = 0.0, math.log2(UNBOUND)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if expected(demand, 2.0**middle) > room:
            high = middle
        else:
            low = middle
    return float(2.0**low)
