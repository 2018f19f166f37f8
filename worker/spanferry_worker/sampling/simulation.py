"""What policies would have done with traces, side by side. Pure: the traces come in order of time."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from spanferry_worker.stages.sample import (
    NO_TABLE,
    Decision,
    FleetState,
    Kept,
    Outcome,
    Report,
    Sampler,
    SamplingPolicy,
    Table,
    Traits,
    bucket_of,
)
from spanferry_worker.stages.sample.account import Account as Reported
from spanferry_worker.stages.sample.fleet import BUCKET_MS
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["Account", "PolicyAccount", "RuleAccount", "Simulation"]

_AUTHOR: Final = "simulate"
_REMEMBERED_MAX: Final = 100_000
"""Traces whose outcome is remembered, for what comes late: as many as a worker remembers."""


class RuleAccount(Struct):
    """What one rule did. `none` is the name of no rule."""

    traces: int = 0
    full: int = 0
    skeleton: int = 0
    dropped: int = 0
    bytes_in: int = 0
    bytes_stored: int = 0


class PolicyAccount(Struct):
    """What one policy did; rules in the order of the policy."""

    rules: dict[str, RuleAccount]
    budget_bytes_s: int | None = None
    estimated_traces: float = 0.0
    """The sum of the weights of what is stored ..."""
    estimated_bytes: float = 0.0
    """... and of weight times size: beside `traces` and `bytes_in` of the account."""
    late_stored: int = 0
    """Bytes of what came late for traces, as far as it is stored."""
    buckets: dict[int, int] = {}
    """Bytes stored by bucket of the traces' own time."""

    @property
    def total(self) -> RuleAccount:
        """All rules together."""
        total = RuleAccount()
        for rule in self.rules.values():
            for field in RuleAccount.__struct_fields__:
                setattr(total, field, getattr(total, field) + getattr(rule, field))
        return total

    @property
    def busiest_minute_bytes_s(self) -> float:
        """The most bytes a second that were stored over a minute of the traces' time."""
        count = 60_000 // BUCKET_MS
        sums = (
            sum(self.buckets.get(bucket + one, 0) for one in range(count))
            for bucket in self.buckets
        )
        return max(sums, default=0) / 60


class Account(Struct):
    """All that a simulation has seen and done."""

    policies: dict[str, PolicyAccount]
    traces: int = 0
    bytes_in: int = 0
    late_pieces: int = 0
    """What came after its trace was decided; its bytes are not in `bytes_in`."""
    late_bytes: int = 0
    begun_before: int = 0
    """Left out: incomplete traces that had begun before what was read."""
    unfinished: int = 0
    """Left out: traces that were not finished where the reading ended."""
    incomplete: int = 0
    """Counted: traces that were decided although something was missing."""
    first_ms: int | None = None
    """When the first trace ended, by its own clock ..."""
    last_ms: int | None = None

    @property
    def seconds(self) -> float:
        """The traces' own time from the first to the last; at least one bucket."""
        if self.first_ms is None or self.last_ms is None:
            return BUCKET_MS / 1000
        return max(BUCKET_MS, self.last_ms - self.first_ms) / 1000


class _Policy:
    """One policy at work, and what it has decided of late."""

    def __init__(self, name: str, policy: SamplingPolicy) -> None:
        self.sampler = Sampler(policy, name)
        names = [rule.name for rule in policy.in_force]
        self.account = PolicyAccount(
            {name: RuleAccount() for name in names}, budget_bytes_s=policy.budget_bytes_s
        )
        self.remembered: OrderedDict[bytes, Outcome] = OrderedDict()

    def decide(self, trace: AssembledTrace, table: Table, bucket: int, reported: Reported) -> None:
        decision = self.sampler.decide(trace, table)
        kept = self.sampler.apply(trace, decision)
        self._count(decision, kept, bucket)
        if self.account.budget_bytes_s is not None:
            reported.decided(self.sampler.name, bucket, decision, kept.size)
        if trace.trace_id is not None and decision.outcome is not Outcome.FULL:
            self.remembered[trace.trace_id] = decision.outcome
            if len(self.remembered) > _REMEMBERED_MAX:
                self.remembered.popitem(last=False)

    def _count(self, decision: Decision, kept: Kept, bucket: int) -> None:
        account = self.account
        rule = account.rules.setdefault(decision.rule, RuleAccount())
        rule.traces += 1
        rule.full += decision.outcome is Outcome.FULL
        rule.skeleton += decision.outcome is Outcome.SKELETON
        rule.dropped += decision.outcome is Outcome.DROP
        rule.bytes_in += decision.size
        rule.bytes_stored += kept.size
        account.buckets[bucket] = account.buckets.get(bucket, 0) + kept.size
        if decision.outcome is not Outcome.DROP:
            account.estimated_traces += decision.weight
            account.estimated_bytes += decision.weight * decision.size

    def follow(self, piece: AssembledTrace) -> None:
        """What came late goes the way of its trace."""
        outcome = self.remembered.get(piece.trace_id or b"", Outcome.FULL)
        self.account.late_stored += self.sampler.follow(piece, outcome).size


class Simulation:
    """Policies by name, each with a fleet of one worker that reports at every new bucket."""

    def __init__(self, policies: Mapping[str, SamplingPolicy], *, begin_ms: int = 0) -> None:
        """`begin_ms`: when what is read was produced at the earliest."""
        self._policies = {name: _Policy(name, policy) for name, policy in policies.items()}
        self._needs_fleet = any(policy.needs_fleet for policy in policies.values())
        self._budgets = {
            name: float(policy.budget_bytes_s)
            for name, policy in policies.items()
            if policy.budget_bytes_s is not None
        }
        self._state = FleetState()
        self._reported = Reported()
        self._reports = 0
        self._begin_ms = begin_ms
        self.account = Account({name: one.account for name, one in self._policies.items()})

    def take(self, traces: Sequence[AssembledTrace]) -> None:
        """The next traces and late pieces, as assembly gives them."""
        for trace in traces:
            if trace.reason is FinishReason.LATE or not trace.spans:
                self._follow(trace)
            elif not trace.complete and self._begun_before(trace):
                self.account.begun_before += 1
            else:
                self._decide(trace)

    def left(self, traces: Sequence[AssembledTrace]) -> None:
        """What is not finished where the reading ends."""
        for trace in traces:
            if trace.spans:
                self.account.unfinished += 1

    def _begun_before(self, trace: AssembledTrace) -> bool:
        return min(span.start_ns for span in trace.spans) // 1_000_000 < self._begin_ms

    def _follow(self, piece: AssembledTrace) -> None:
        self.account.late_pieces += 1
        self.account.late_bytes += piece.size
        for policy in self._policies.values():
            policy.follow(piece)

    def _decide(self, trace: AssembledTrace) -> None:
        traits, account = Traits(trace), self.account
        moment_ms = traits.moment_ms
        account.traces += 1
        account.bytes_in += traits.size
        account.incomplete += not trace.complete
        account.first_ms = (
            moment_ms if account.first_ms is None else min(account.first_ms, moment_ms)
        )
        account.last_ms = max(account.last_ms or 0, moment_ms)
        bucket = bucket_of(moment_ms)
        table = self._table(bucket) if self._needs_fleet else NO_TABLE
        for policy in self._policies.values():
            policy.decide(trace, table, bucket, self._reported)
        self._reported.took(traits)

    def _table(self, bucket: int) -> Table:
        """What holds for a bucket; a new one is agreed on by all that was reported until then."""
        table = self._state.table(bucket)
        if table is None:
            self._report()
            for event in self._state.propose(bucket, self._budgets, _AUTHOR):
                self._state.apply(event)
            table = self._state.table(bucket)
            assert table is not None
        return table

    def _report(self) -> None:
        demands, durations = self._reported.take()
        if demands or durations:
            self._reports += 1
            report = Report(_AUTHOR, self._reports, demands, self._budgets, durations)
            self._state.apply(report)
