"""Samples finished traces: decides, waits where the fleet has to agree first, hands on what is kept."""

import logging
from collections import OrderedDict
from typing import Final, NamedTuple

from spanferry_worker.runtime.fleet import Fleet
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.restorer import Restoration, Restorer, Sampled
from spanferry_worker.runtime.writer import Writer
from spanferry_worker.settings import SampleSettings, Settings
from spanferry_worker.stages.accounts import Outcome as Fate
from spanferry_worker.stages.sample import (
    LIVE,
    NO_TABLE,
    SHADOW,
    Decision,
    DecisionReason,
    Outcome,
    Sampler,
    Table,
    Traits,
    bucket_of,
)
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["Decider"]

_log = logging.getLogger("spanferry.sample")
_PATIENCE_MS: Final = 10_000
"""After this long a trace is decided by the table that is known."""
_REMEMBERED_MAX: Final = 50_000
"""Traces that were cut or dropped of late, so that what comes late follows them."""


class _Waiting(NamedTuple):
    trace: AssembledTrace
    lane: Lane
    since_ms: int


class Decider:
    """The sample stage of a process."""

    def __init__(self, parts: Parts, settings: Settings, lanes: Lanes, writer: Writer) -> None:
        self._parts = parts
        self._lanes = lanes
        self._writer = writer
        self.fleet = Fleet(parts)
        self.fleet.on_tables = self._settle
        self._waiting: OrderedDict[bytes | None, list[_Waiting]] = OrderedDict()
        self._remembered: OrderedDict[tuple[int, bytes], Sampled] = OrderedDict()
        self.restorer = Restorer(parts, settings)
        self.restorer.on_done = self._restored
        self._waiting_bytes = 0
        self._live = Sampler(settings.sample)
        self._shadow: Sampler | None = None
        self.use(settings.sample)

    @property
    def held_bytes(self) -> int:
        """What waits for a decision, or to be restored, takes in memory."""
        return self._waiting_bytes + self.restorer.held_bytes

    def use(self, policy: SampleSettings) -> None:
        """Decide by this policy from now on."""
        self._live = Sampler(policy, LIVE)
        self._shadow = None if policy.shadow is None else Sampler(policy.shadow, SHADOW)
        used = [one for one in (self._live, self._shadow) if one is not None]
        self.fleet.is_on = any(one.policy.needs_fleet for one in used)
        self.fleet.budgets = {
            one.name: float(one.policy.budget_bytes_s)
            for one in used
            if one.policy.budget_bytes_s is not None
        }

    def decide(self, trace: AssembledTrace, lane: Lane) -> None:
        """Take a finished trace. It goes to the writer now, or once the fleet has agreed."""
        metrics = self._parts.metrics
        metrics.assemble_finished.labels(trace.reason.value).inc()
        metrics.assemble_spans.inc(len(trace.spans))
        if self.restorer.takes(trace, lane):
            return
        behind = self._waiting.get(trace.trace_id)
        if behind is not None:
            self._wait(behind, trace, lane)
        elif not self._decided(trace, lane, patient=True):
            behind = self._waiting[trace.trace_id] = []
            self._wait(behind, trace, lane)

    def _wait(self, behind: list[_Waiting], trace: AssembledTrace, lane: Lane) -> None:
        behind.append(_Waiting(trace, lane, self._parts.clock.now_ms()))
        self._waiting_bytes += trace.memory_bytes

    def tick(self) -> None:
        """Decide what has waited too long; a few times a second."""
        if self._waiting:
            self._settle()

    def _settle(self) -> None:
        """Decide what can be decided now."""
        now_ms = self._parts.clock.now_ms()
        for trace_id in list(self._waiting):
            waiting = self._waiting[trace_id]
            while waiting:
                trace, lane, since_ms = waiting[0]
                patient = now_ms - since_ms < _PATIENCE_MS
                owned = self._lanes.owned(lane.lane_id) is not None
                if owned and not self._decided(trace, lane, patient=patient):
                    break
                del waiting[0]
                self._waiting_bytes -= trace.memory_bytes
            if not waiting:
                del self._waiting[trace_id]
        self._parts.metrics.sample.waiting.set(sum(map(len, self._waiting.values())))

    def _decided(self, trace: AssembledTrace, lane: Lane, *, patient: bool) -> bool:
        """Decide and hand on; False where that has to wait for the fleet."""
        if trace.reason is FinishReason.LATE or not trace.spans:
            self._follow(trace, lane)
            return True
        if not self.fleet.is_on:
            self._do(trace, lane, NO_TABLE, 0)
            return True
        traits = Traits(trace)
        bucket = bucket_of(traits.moment_ms)
        table = self.fleet.table(bucket)
        if table is None:
            if patient and self.fleet.available:
                return False
            if self._parts.fleet is not None:
                self._parts.metrics.sample.unsettled.inc()
            table = self.fleet.latest
        self.fleet.account.took(traits)
        self._do(trace, lane, table, bucket)
        return True

    def _do(self, trace: AssembledTrace, lane: Lane, table: Table, bucket: int) -> None:
        decision = self._live.decide(trace, table)
        kept = self._live.apply(trace, decision)
        self._count(decision, kept.size)
        if LIVE in self.fleet.budgets:
            self.fleet.account.decided(LIVE, bucket, decision, kept.size)
        if self._shadow is not None:
            self._compare(self._shadow, trace, table, bucket, decision)
        if decision.outcome is not Outcome.FULL:
            self._remember(trace, lane, decision)
        self._hand_on(kept.trace, trace, lane)

    def _follow(self, trace: AssembledTrace, lane: Lane, *, restores: bool = True) -> None:
        """What came late goes the way of its trace; feedback brings the whole trace back."""
        earlier = self._remembered.get((lane.lane_id, trace.trace_id or b""))
        wanted = restores and earlier is not None and bool(trace.assessments)
        if earlier is not None and wanted and self.restorer.ask(trace, lane, earlier):
            return
        outcome = Outcome.FULL if earlier is None else earlier.outcome
        kept = self._live.follow(trace, outcome)
        reason = DecisionReason.EARLIER.value
        self._parts.metrics.sample_decisions.labels(outcome.value, "", reason).inc()
        self._hand_on(kept.trace, trace, lane)

    def _restored(self, done: Restoration, whole: AssembledTrace | None) -> None:
        """A trace that was cut or dropped is written whole, and what came for it since; or it is gone
        from Kafka, and they go the way that it went."""
        late, lane, _, behind = done
        if self._lanes.owned(lane.lane_id) is not None:
            if whole is None:
                self._follow(late, lane, restores=False)
            else:
                self._remembered.pop((lane.lane_id, late.trace_id or b""), None)
                labels = (Outcome.FULL.value, "feedback", DecisionReason.RESTORED.value)
                self._parts.metrics.sample_decisions.labels(*labels).inc()
                self._writer.add(whole, lane)
        for trace, its_lane in behind:
            if self._lanes.owned(its_lane.lane_id) is not None:
                self._follow(trace, its_lane, restores=False)

    def _hand_on(self, kept: AssembledTrace | None, trace: AssembledTrace, lane: Lane) -> None:
        if kept is None:
            lane.settle(trace.positions, Fate.SAMPLED)
        else:
            self._writer.add(kept, lane)

    def _remember(self, trace: AssembledTrace, lane: Lane, decision: Decision) -> None:
        if trace.trace_id is not None:
            sampled = Sampled(decision.outcome, decision.weight, tuple(trace.positions))
            self._remembered[lane.lane_id, trace.trace_id] = sampled
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)

    def _count(self, decision: Decision, stored: int) -> None:
        metrics, outcome = self._parts.metrics, decision.outcome.value
        metrics.sample_decisions.labels(outcome, decision.rule, decision.reason.value).inc()
        metrics.sample.bytes_in.labels(outcome).inc(decision.size)
        metrics.sample.bytes_stored.labels(outcome).inc(stored)

    def _compare(
        self, shadow: Sampler, trace: AssembledTrace, table: Table, bucket: int, live: Decision
    ) -> None:
        """Let the shadow policy decide, and count what it would have done."""
        decision = shadow.decide(trace, table)
        stored = shadow.apply(trace, decision).size
        if SHADOW in self.fleet.budgets:
            self.fleet.account.decided(SHADOW, bucket, decision, stored)
        metrics, outcome = self._parts.metrics.sample, decision.outcome.value
        metrics.shadow_decisions.labels(outcome, decision.rule, decision.reason.value).inc()
        metrics.shadow_stored.labels(outcome).inc(stored)
        if decision.outcome is not live.outcome:
            metrics.shadow_differs.labels(live.outcome.value, outcome).inc()
