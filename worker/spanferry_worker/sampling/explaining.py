"""Why a policy decides as it does about one trace: every rule, every condition, chance and weights."""

from collections.abc import Iterator

from msgspec import Struct

from spanferry_schemas.record import SAMPLED_UPSTREAM
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    Decision,
    Sampler,
    Table,
    Traits,
)
from spanferry_worker.stages.sample.budget import UNBOUND
from spanferry_worker.stages.sample.matching import CompiledRule
from spanferry_worker.stages.sample.randomness import SPACE, Randomness, read_upstream
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["ConditionSeen", "Explanation", "RuleSeen", "explain", "traits_shown"]


class ConditionSeen(Struct, frozen=True):
    """One condition against the trace."""

    name: str
    wanted: object
    found: object
    """What the trace has where the condition looks; None where it has nothing."""
    holds: bool | None
    """None where that is not known: what is slow was not agreed on for the trace's time."""


class RuleSeen(Struct, frozen=True):
    """One rule against the trace."""

    name: str
    action: Action
    conditions: list[ConditionSeen]
    matches: bool | None
    decides: bool


class Explanation(Struct, frozen=True):
    """What one policy does with one trace, and why."""

    policy: str
    rules: list[RuleSeen]
    decision: Decision
    stored_bytes: int
    """Record bytes that are stored of it, about."""
    chance: float
    """The trace's randomness in [0, 1): it is stored whole where that is at least 1 - probability."""
    chance_of: str
    """What the randomness comes from."""
    upstream: str | None
    """What samplers before us have said they did."""
    target_bytes: float | None
    """Up to how many bytes the fleet stores traces of its time whole; None: unknown or not asked for."""
    slow_s: float | None
    """Above how many seconds a trace of this name is slow; None: unknown or not asked for."""
    unknown: list[str]
    """What is not known and may change the decision."""


def explain(
    trace: AssembledTrace, sampler: Sampler, policy: str, table: Table | None
) -> Explanation:
    """`policy`: what to call it. `table`: that of the trace's bucket; None where there is none."""
    traits = Traits(trace)
    used = NO_TABLE if table is None else table
    decision = sampler.decide(trace, used)
    upstream = trace.trace.metadata.get(SAMPLED_UPSTREAM)
    rules = list(_rules(traits, sampler, used, decision.rule, known=table is not None))
    target = used.targets.get(sampler.name)
    return Explanation(
        policy=policy,
        rules=rules,
        decision=decision,
        stored_bytes=sampler.apply(trace, decision).size,
        chance=sampler.chance(traits, read_upstream(upstream)) / SPACE,
        chance_of=_chance_of(traits, sampler, upstream),
        upstream=upstream,
        target_bytes=None if target is None or target >= UNBOUND else target,
        slow_s=used.slow_s.get(traits.name),
        unknown=[] if table is not None else list(_unknown(traits, rules)),
    )


def _rules(
    traits: Traits, sampler: Sampler, table: Table, deciding: str, *, known: bool
) -> Iterator[RuleSeen]:
    for compiled in sampler.rules:
        conditions = list(_conditions(compiled, traits, table, known=known))
        holds = [each.holds for each in conditions]
        matches = False if False in holds else (None if None in holds else True)
        rule = compiled.rule
        yield RuleSeen(rule.name, rule.action, conditions, matches, rule.name == deciding)


def _conditions(
    rule: CompiledRule, traits: Traits, table: Table, *, known: bool
) -> Iterator[ConditionSeen]:
    for one in rule.conditions:
        if one.name == "slow":
            holds = one.holds(traits, table) if known else None
            yield ConditionSeen(one.name, one.value, traits.duration_s, holds)
        else:
            found = one.found(traits, table)
            yield ConditionSeen(one.name, one.value, found, one.holds(traits, table))


def _unknown(traits: Traits, rules: list[RuleSeen]) -> Iterator[str]:
    """Of the rules up to the one that decides."""
    for rule in rules:
        if rule.matches is None:
            yield f"rule {rule.name!r}: above how many seconds a trace named {traits.name!r} is slow"
        if rule.decides:
            if rule.action is Action.BUDGET:
                yield f"rule {rule.name!r}: up to how many bytes the fleet stores traces whole"
            return


def _chance_of(traits: Traits, sampler: Sampler, upstream: str | None) -> str:
    if read_upstream(upstream).rv is not None:
        return "rv of the tracestate"
    if sampler.policy.randomness is Randomness.OTEL:
        return "the trace id's last 56 bits"
    return "the session id" if traits.session else "the trace id"


def traits_shown(trace: AssembledTrace) -> dict[str, object]:
    """What rules may ask of the trace, by a name for each."""
    traits = Traits(trace)
    return {
        "bytes": traits.size,
        "spans": len(trace.spans),
        "duration_s": traits.duration_s,
        "state": traits.state,
        "error": traits.error,
        "name": traits.name,
        "experiments": list(traits.experiments),
        "active_models": list(traits.active_models),
        "session": traits.session,
        "user": traits.user,
        "tokens": traits.tokens,
        "cost": traits.cost,
        "feedback": len(trace.assessments) > 0,
        "complete": trace.complete,
        "finished": trace.reason.value,
    }
