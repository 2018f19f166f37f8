"""Decides what is kept of traces by a policy, and does what was decided. Pure: a replay decides the same."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from spanferry_schemas import Attachment, Span
from spanferry_schemas.record import SAMPLED_UPSTREAM
from spanferry_worker.stages.sample.decision import Decision, DecisionReason, Outcome, marks
from spanferry_worker.stages.sample.fleet import Table
from spanferry_worker.stages.sample.matching import CompiledRule, compile_rule
from spanferry_worker.stages.sample.policy import TARGET_BYTES, SamplingPolicy
from spanferry_worker.stages.sample.randomness import (
    SPACE,
    Randomness,
    Upstream,
    hashed,
    read_upstream,
    threshold,
    threshold_text,
)
from spanferry_worker.stages.sample.rules import Action, Rule
from spanferry_worker.stages.sample.sampled import with_records
from spanferry_worker.stages.sample.traits import Traits
from spanferry_worker.stages.skeleton import skeleton
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["LIVE", "SHADOW", "Kept", "Sampler"]

LIVE: Final = "live"
"""The name of the policy that counts, in tables and reports."""
SHADOW: Final = "shadow"
"""... and of the one that decides without effect."""
_NOTHING_BEFORE: Final = Upstream()
_NO_RULE: Final = Rule(name="none", action=Action.KEEP)
_REASONS: Final = {action: DecisionReason(action.value) for action in Action}
_OTHERWISE: Final = {Action.SKELETON: Outcome.SKELETON, Action.DROP: Outcome.DROP}


class Kept(NamedTuple):
    """What is left of a trace."""

    trace: AssembledTrace | None
    """None where it is dropped."""
    size: int
    """Record bytes that are stored, about."""


class Sampler:
    """One policy at work."""

    def __init__(self, policy: SamplingPolicy, name: str = LIVE) -> None:
        self.policy = policy
        self.name = name
        self.rules: tuple[CompiledRule, ...] = tuple(map(compile_rule, policy.in_force))
        self._marks = bool(self.rules)
        self._salt = policy.salt.encode()
        self._target = float(policy.target_bytes or TARGET_BYTES)

    def decide(self, trace: AssembledTrace, table: Table) -> Decision:
        """What is to be kept of the trace: by the first rule that matches.

        `table` is that of the trace's bucket, where the policy needs one.
        """
        traits = Traits(trace)
        for rule, _, matches in self.rules:
            if matches(traits, table):
                return self._by_rule(rule, traits, table)
        return self._by_rule(_NO_RULE, traits, table)

    def _by_rule(self, rule: Rule, traits: Traits, table: Table) -> Decision:
        size = traits.size
        probability = self.probability(rule, size, table)
        reason = DecisionReason.NO_RULE if rule is _NO_RULE else _REASONS[rule.action]
        upstream = self._upstream(traits)
        if upstream is _NOTHING_BEFORE and probability >= 1:
            return Decision(outcome=Outcome.FULL, rule=rule.name, reason=reason, size=size)
        otherwise = _OTHERWISE.get(rule.action) or Outcome(rule.otherwise.value)
        by_otel = self.policy.randomness is Randomness.OTEL or upstream.rv is not None
        whole = probability > 0 and self.chance(traits, upstream) >= threshold(probability)
        outcome = Outcome.FULL if whole else otherwise
        # By the same randomness the smaller probability implies the other; independent ones multiply.
        both = (
            min(probability, upstream.consistent) if by_otel else probability * upstream.consistent
        )
        before = upstream.consistent * upstream.head
        stored = both * upstream.head if otherwise is Outcome.DROP else before
        return Decision(
            outcome=outcome,
            rule=rule.name,
            reason=reason,
            probability=probability,
            weight=0.0 if outcome is Outcome.DROP else 1 / stored,
            full_weight=1 / (both * upstream.head) if whole else 0.0,
            size=size,
            threshold=threshold_text(threshold(both)) if by_otel and whole else "",
        )

    def probability(self, rule: Rule, size: int, table: Table) -> float:
        """With which a trace of this size that meets the rule is stored whole."""
        action = rule.action
        if action is Action.TARGET_BYTES or action is Action.BUDGET:
            if action is Action.TARGET_BYTES:
                target = float(rule.target_bytes or 1)
            else:
                target = table.targets.get(self.name, self._target)
            return 1.0 if size <= target else target / size
        if action is Action.PROBABILITY:
            return rule.probability or 1.0
        return 1.0 if action is Action.KEEP else 0.0

    def _upstream(self, traits: Traits) -> Upstream:
        text = traits.trace.trace.metadata.get(SAMPLED_UPSTREAM)
        return _NOTHING_BEFORE if text is None else read_upstream(text)

    def chance(self, traits: Traits, upstream: Upstream) -> int:
        """The trace's randomness: one number of 56 bits, for all of a session."""
        if upstream.rv is not None:
            return upstream.rv
        trace_id = traits.trace.trace_id or b""
        if self.policy.randomness is Randomness.OTEL:
            return int.from_bytes(trace_id, "big") % SPACE
        session = traits.conversation
        identity = trace_id if not session else session.encode("utf-8", "surrogatepass")
        return hashed(identity, self._salt)

    def apply(self, trace: AssembledTrace, decision: Decision) -> Kept:
        """What is written: the trace or its skeleton, each with what was decided in its metadata."""
        match decision.outcome:
            case Outcome.DROP:
                return Kept(None, 0)
            case Outcome.FULL:
                return Kept(self._marked(trace, decision), decision.size)
            case Outcome.SKELETON:
                small = self.cut(trace)
                saved = sum(
                    _bytes(old) - _bytes(new)
                    for old, new in zip(trace.spans, small.spans, strict=True)
                    if old is not new
                )
                return Kept(self._marked(small, decision), max(0, decision.size - saved))

    def follow(self, trace: AssembledTrace, earlier: Outcome) -> Kept:
        """What is written of what came late for a trace that was decided before."""
        if earlier is Outcome.DROP:
            return Kept(None, 0)
        kept = trace if earlier is Outcome.FULL else self.cut(trace)
        if SAMPLED_UPSTREAM in kept.trace.metadata:
            metadata = dict(kept.trace.metadata)
            del metadata[SAMPLED_UPSTREAM]
            kept = replace(kept, trace=replace(kept.trace, metadata=metadata))
        return Kept(kept, trace.size)

    def cut(self, trace: AssembledTrace) -> AssembledTrace:
        """The trace without its payloads."""
        spans = [
            skeleton(
                span,
                attribute_bytes_max=self.policy.attribute_bytes_max,
                events_bytes_max=self.policy.events_bytes_max,
            )
            for span in trace.spans
        ]
        kept = [one for one in trace.attachments if _is_referred_to(one, spans)]
        return replace(trace, spans=spans, attachments=kept)

    def _marked(self, trace: AssembledTrace, decision: Decision) -> AssembledTrace:
        """Where no rule can change anything, traces stay as they came."""
        if not self._marks and decision.reason is DecisionReason.NO_RULE and decision.weight == 1:
            return trace
        metadata = {**trace.trace.metadata, **marks(decision)}
        if decision.outcome is Outcome.SKELETON:
            with_records(metadata, trace.positions)
        metadata.pop(SAMPLED_UPSTREAM, None)
        return replace(trace, trace=replace(trace.trace, metadata=metadata))


def _bytes(span: Span) -> int:
    """About what a span's record bytes are made of."""
    size = sum(map(len, span.attributes.values())) + len(span.status_message)
    for event in span.events:
        size += len(event.name) + len(event.attributes)
    return size + sum(len(link.attributes) for link in span.links)


def _is_referred_to(attachment: Attachment, spans: Sequence[Span]) -> bool:
    """Whether what is left of the payloads still names it: what was cut needs no attachment."""
    name = attachment.attachment_id.encode()
    return any(name in value for span in spans for value in span.attributes.values())
