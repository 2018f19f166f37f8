"""Samples finished traces: decides, waits where the fleet has to agree first, hands on what is kept."""

from collections import OrderedDict
from typing import Final, NamedTuple

from spanferry_worker.ports import Partition
from spanferry_worker.runtime.drops import Drops
from spanferry_worker.runtime.fleet import Fleet
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.recall import Recall
from spanferry_worker.runtime.remembered import Remembered
from spanferry_worker.runtime.restorer import Restoration, Restorer
from spanferry_worker.runtime.writer import Writer
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.settings import SampleSettings, Settings
from spanferry_worker.stages.sample import (
    LIVE,
    NO_TABLE,
    SHADOW,
    Decision,
    DecisionReason,
    Outcome,
    Sampled,
    Sampler,
    Table,
    Traits,
    bucket_of,
    entries,
    located,
)
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["Decider"]

_PATIENCE_MS: Final = 10_000
"""After this long a trace is decided by the table that is known."""


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
        self._waiting_bytes = 0
        self._remembered = Remembered(parts, lanes, settings.sample.remembered_bytes_max)
        self.drops = Drops(parts, settings, lanes, self._remembered)
        self.recall = Recall(parts, settings, lanes, self._remembered, self.drops)
        self.recall.on_answer = self._go_on
        self.restorer = Restorer(parts, settings)
        self.restorer.on_done = self._restored
        self._live = Sampler(settings.sample)
        self._shadow: Sampler | None = None
        self.use(settings.sample)

    @property
    def held_bytes(self) -> int:
        """What waits for a decision, for what was decided before, or to be restored, takes in memory."""
        waiting = self._waiting_bytes + self.recall.held_bytes
        return waiting + self.restorer.held_bytes + self.drops.held_bytes

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
        self.recall.is_on = policy.can_cut
        self.drops.switch(on=policy.can_drop)

    def begin(self) -> None:
        """Other partitions are ours now."""
        self._remembered.forget_lost()
        self.drops.begin()

    def decide(self, trace: AssembledTrace, lane: Lane) -> None:
        """Take a finished trace. It goes to the writer now, or once it is known what to go by."""
        metrics = self._parts.metrics
        metrics.assemble_finished.labels(trace.reason.value).inc()
        metrics.assemble_spans.inc(len(trace.spans))
        if self.recall.held_bytes and self.recall.takes(trace, lane):
            return
        if trace.reason is not FinishReason.COMPLETE:
            under_way = self.restorer.knows(trace) or trace.trace_id in self._waiting
            if not under_way and self.recall.ask(trace, lane):
                return
        self._go_on(trace, lane, None)

    def _go_on(self, trace: AssembledTrace, lane: Lane, told: Sampled | None) -> None:
        """Decide, in the order in which a trace's pieces came. `told`: what the store says of it."""
        if self.restorer.held_bytes and self.restorer.takes(trace, lane):
            return
        behind = self._waiting.get(trace.trace_id)
        if behind is None:
            if self._decided(trace, lane, told, patient=True):
                return
            behind = self._waiting[trace.trace_id] = []
        behind.append(_Waiting(trace, lane, self._parts.clock.now_ms()))
        self._waiting_bytes += trace.memory_bytes

    def tick(self) -> None:
        """Decide what has waited too long; a few times a second."""
        self._remembered.show()
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
                if owned and not self._decided(trace, lane, None, patient=patient):
                    break
                del waiting[0]
                self._waiting_bytes -= trace.memory_bytes
            if not waiting:
                del self._waiting[trace_id]
        self._parts.metrics.sample.waiting.set(sum(map(len, self._waiting.values())))

    def _decided(
        self, trace: AssembledTrace, lane: Lane, told: Sampled | None, *, patient: bool
    ) -> bool:
        """Decide and hand on; False where that has to wait for the fleet."""
        if trace.reason is not FinishReason.COMPLETE:
            # A late root, too, follows what is remembered here; only pieces without one ask the store.
            earlier = told or self._remembered.own(lane, trace.trace_id or b"")
            if earlier is not None or trace.reason is FinishReason.LATE or not trace.spans:
                self._follow(trace, lane, earlier)
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
        _count(self._parts.metrics, decision, kept.size)
        if LIVE in self.fleet.budgets:
            self.fleet.account.decided(LIVE, bucket, decision, kept.size)
        if self._shadow is not None:
            self._compare(self._shadow, trace, table, bucket, decision)
        if decision.outcome is not Outcome.FULL and trace.trace_id is not None:
            positions = tuple(trace.positions)
            sampled = Sampled(decision.outcome, decision.weight, positions)
            self._remembered.put(lane, trace.trace_id, sampled)
        self._hand_on(kept.trace, trace, lane)

    def _follow(
        self, trace: AssembledTrace, lane: Lane, earlier: Sampled | None, *, restores: bool = True
    ) -> None:
        """What came late goes the way of its trace; feedback brings the whole trace back."""
        outcome = Outcome.FULL if earlier is None else earlier.outcome
        less = earlier if outcome is not Outcome.FULL else None
        if less and restores and trace.assessments and self.restorer.ask(trace, lane, less):
            return
        reason = DecisionReason.EARLIER.value
        self._parts.metrics.sample_decisions.labels(outcome.value, "", reason).inc()
        kept = self._live.follow(trace, outcome).trace
        if less and less.positions and trace.spans and trace.trace_id is not None:
            # Its records are to be read, too, if the whole trace is asked for.
            more = tuple(sorted({*less.positions, *trace.positions}))
            self._remembered.put(lane, trace.trace_id, less._replace(positions=more))
            kept = None if kept is None else located(kept, more)
        self._hand_on(kept, trace, lane)

    def _restored(self, done: Restoration, whole: AssembledTrace | None) -> None:
        """A trace that was cut or dropped is written whole, and what came for it since; or it is gone
        from Kafka, and they go the way that it went."""
        late, lane, earlier, behind = done
        if self._lanes.owned(lane.lane_id) is None:
            # What has come since is another assignment's, which knows of no restoration.
            for trace, its_lane in behind:
                if self._lanes.owned(its_lane.lane_id) is not None:
                    self._go_on(trace, its_lane, earlier)
            return
        if whole is None:
            self._follow(late, lane, earlier, restores=False)
        else:
            # Feedback by a request may come in another partition than its trace.
            homes = {self._lanes.of(Partition(*place[:2])) for place in earlier.positions}
            earlier = Sampled(Outcome.FULL)
            for home in {lane, *homes} - {None}:
                self._remembered.put(home or lane, late.trace_id or b"", earlier)
            labels = (Outcome.FULL.value, "feedback", DecisionReason.RESTORED.value)
            self._parts.metrics.sample_decisions.labels(*labels).inc()
            self._writer.add(whole, lane)
        for trace, its_lane in behind:
            if self._lanes.owned(its_lane.lane_id) is not None:
                self._follow(trace, its_lane, earlier, restores=False)

    def _hand_on(self, kept: AssembledTrace | None, trace: AssembledTrace, lane: Lane) -> None:
        if kept is not None:
            self._writer.add(kept, lane)
            return
        offsets = [position.offset for position in trace.positions]
        dropped = entries(trace.trace_id or b"", Outcome.DROP, offsets)
        self.drops.take(lane, dropped, trace.positions)

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


def _count(metrics: Metrics, decision: Decision, stored: int) -> None:
    outcome = decision.outcome.value
    metrics.sample_decisions.labels(outcome, decision.rule, decision.reason.value).inc()
    metrics.sample.bytes_in.labels(outcome).inc(decision.size)
    metrics.sample.bytes_stored.labels(outcome).inc(stored)
