"""An explanation as lines for people and as JSON for programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from spanferry_schemas import trace_id_text
from spanferry_worker.sampling.explaining import (
    ConditionSeen,
    Explanation,
    RuleSeen,
    traits_shown,
)
from spanferry_worker.sampling.finding import Found
from spanferry_worker.sampling.sentences import condition_sentence
from spanferry_worker.stages.sample import Action, Outcome
from spanferry_worker.text import cut, size_text, time_text

__all__ = ["as_json", "explanation_lines", "found_lines"]

_FOUND_MAX: Final = 60
_HOLDS: Final = {True: "holds", False: "does not hold", None: "unknown"}
_MATCHES: Final = {True: "matches", False: "does not match", None: "unknown"}
_OUTCOMES: Final = {
    Outcome.FULL: "stored whole",
    Outcome.SKELETON: "stored as a skeleton",
    Outcome.DROP: "dropped",
}


def found_lines(found: Found) -> Iterator[str]:
    """What Kafka has of the trace."""
    trace = found.pieces[0]
    records = "1 record" if found.records == 1 else f"{found.records:,} records"
    yield (
        f"{trace_id_text(found.trace_id)}: {records} in partition {trace.positions[0].partition}, "
        f"{time_text(found.first_ms)} to {time_text(found.last_ms)}"
    )
    if found.is_open:
        yield "  not finished: a worker waits for more of it; shown as it stands"
    elif not trace.complete:
        yield f"  not complete when it was decided on ({trace.reason.value})"
    for name, value in traits_shown(trace).items():
        if value is not None and value != []:
            yield f"  {name:<13} {_shown(name, value)}"
    for piece in found.pieces[1:]:
        spans, judged = len(piece.spans), len(piece.assessments)
        yield f"  came later, follows the decision: {spans} spans, {judged} assessments"


def explanation_lines(seen: Explanation) -> Iterator[str]:
    """One policy, rule by rule, and what comes of it."""
    yield f"policy {seen.policy}:"
    for number, rule in enumerate(seen.rules, 1):
        yield from _rule(number, rule, seen)
    if not any(rule.decides for rule in seen.rules):
        yield "     no rule takes it: it is stored whole"
    yield from _decision(seen)


def _rule(number: int, rule: RuleSeen, seen: Explanation) -> Iterator[str]:
    verdict = f"{_MATCHES[rule.matches]}, and decides" if rule.decides else _MATCHES[rule.matches]
    yield f"{number:>3}. {rule.name} ({rule.action.value}): {verdict}"
    for one in rule.conditions:
        sentence = cut(condition_sentence(one.name, one.wanted), _FOUND_MAX)
        yield f"       {sentence}: {_HOLDS[one.holds]} ({_found(one, seen)})"


def _found(one: ConditionSeen, seen: Explanation) -> str:
    if one.name == "slow":
        if one.found is None:
            return "it has no duration"
        limit = "no limit is known" if seen.slow_s is None else f"the limit is {seen.slow_s:.3g} s"
        return f"it took {one.found:.3g} s, {limit}"
    if one.found is None or one.found == []:
        return "it has none"
    shown = _shown(one.name, one.found)
    return shown if isinstance(one.found, bool) else f"it has {shown}"


def _shown(name: str, value: Any) -> str:
    if name.startswith("bytes"):
        return size_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        pairs = [f"{key} = {'nothing' if one is None else one}" for key, one in value.items()]
        return cut(", ".join(pairs), _FOUND_MAX)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return cut(", ".join(map(str, value)), _FOUND_MAX)
    return cut(str(value), _FOUND_MAX)


def _decision(seen: Explanation) -> Iterator[str]:
    decision = seen.decision
    by = f'rule "{decision.rule}"' if decision.rule != "none" else "no rule"
    yield f"  it is {_OUTCOMES[decision.outcome]}, by {by} ({decision.reason.value})"
    if 0 < decision.probability < 1:
        yield f"  probability {decision.probability:.6g}{_of_what(seen)}"
        least = 1 - decision.probability
        relation = "at least" if decision.outcome is Outcome.FULL else "below"
        yield f"  randomness {seen.chance:.6f}, from {seen.chance_of}: {relation} {least:.6f}"
    if seen.upstream is not None:
        yield f"  sampled before: {cut(seen.upstream, _FOUND_MAX)}"
    if decision.outcome is not Outcome.DROP:
        weight = f"{decision.weight:.6g} among all stored"
        yield f"  it stands for {weight}, {decision.full_weight:.6g} among those stored whole"
    yield f"  {size_text(seen.stored_bytes)} of {size_text(decision.size)} are stored"
    for one in seen.unknown:
        yield (
            f"  not known, and it may change this: {one}; the topic of the fleet has no table for the "
            "trace's time"
        )


def _of_what(seen: Explanation) -> str:
    rule = next((one for one in seen.rules if one.decides), None)
    if rule is None or rule.action not in (Action.TARGET_BYTES, Action.BUDGET):
        return ""
    size = seen.decision.size
    target = size_text(round(seen.decision.probability * size))
    agreed = ", as the fleet agreed for its time" if rule.action is Action.BUDGET else ""
    return f": {target} of {size_text(size)}{agreed}"


def as_json(found: Found, explanations: Sequence[Explanation]) -> str:
    """One JSON object and a newline. Times are milliseconds since 1970."""
    trace = found.pieces[0]
    content = {
        "trace_id": trace_id_text(found.trace_id),
        "records": found.records,
        "first_ms": found.first_ms,
        "last_ms": found.last_ms,
        "open": found.is_open,
        "traits": traits_shown(trace),
        "late": [
            {"spans": len(piece.spans), "assessments": len(piece.assessments)}
            for piece in found.pieces[1:]
        ],
        "policies": explanations,
    }
    return msgspec.json.encode(content).decode() + "\n"
