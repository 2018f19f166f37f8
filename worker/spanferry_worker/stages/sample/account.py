"""What one worker has decided since its last report to the fleet."""

from typing import Final

from spanferry_worker.stages.sample.budget import Demand, Offers, size_bin
from spanferry_worker.stages.sample.decision import Decision, DecisionReason, Outcome
from spanferry_worker.stages.sample.durations import duration_bin
from spanferry_worker.stages.sample.traits import Traits

__all__ = ["Account"]

_NAMES_MAX: Final = 1_000
_BUCKETS_MAX: Final = 100


class _Sum:
    """One bucket of one policy."""

    __slots__ = ("offers", "other", "stored")

    def __init__(self) -> None:
        self.offers: dict[int, list[int]] = {}
        self.other = 0
        self.stored = 0


class Account:
    """Grows with every decision, until `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, _Sum]] = {}
        self._durations: dict[str, dict[int, int]] = {}

    def decided(self, policy: str, bucket: int, decision: Decision, stored: int) -> None:
        """One trace by a policy with a budget; `stored`: the bytes that are kept of it."""
        buckets = self._sums.setdefault(policy, {})
        total = buckets.get(bucket)
        if total is None:
            if len(buckets) >= _BUCKETS_MAX:
                return
            total = buckets[bucket] = _Sum()
        total.stored += stored
        if decision.reason is not DecisionReason.BUDGET:
            total.other += stored
            return
        offer = total.offers.setdefault(size_bin(decision.size), [0, 0, 0, 0])
        offer[0] += 1
        offer[1] += decision.size
        if decision.outcome is not Outcome.FULL:
            offer[2] += stored
            offer[3] += 1

    def took(self, traits: Traits) -> None:
        """How long a trace took, for what is slow."""
        duration_s = traits.duration_s
        if duration_s is None:
            return
        bins = self._durations.get(traits.name)
        if bins is None:
            if len(self._durations) >= _NAMES_MAX:
                return
            bins = self._durations[traits.name] = {}
        number = duration_bin(duration_s)
        bins[number] = bins.get(number, 0) + 1

    def take(self) -> tuple[dict[str, dict[int, Demand]], dict[str, dict[int, int]]]:
        """What there is for a report, by policy and bucket, and durations by name; then nothing."""
        demands = {
            policy: {bucket: _demand(total) for bucket, total in buckets.items()}
            for policy, buckets in self._sums.items()
            if buckets
        }
        durations = self._durations
        self._sums, self._durations = {}, {}
        return demands, durations


def _demand(total: _Sum) -> Demand:
    offers = {number: Offers(*counts) for number, counts in total.offers.items()}
    return Demand(offers, total.other, total.stored)
