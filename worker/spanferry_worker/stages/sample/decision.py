"""What was decided for one trace, and how the trace says so."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from spanferry_schemas.record import SAMPLED_UPSTREAM
from spanferry_worker.stages.sample.traits import Traits
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["MARKS", "Decision", "DecisionReason", "Outcome", "marks", "read_outcome", "restored"]

MARKS: Final = "spanferry.sampling."
"""How the names of the metadata begin that say what was decided."""


class Outcome(StrEnum):
    """What is stored of a trace."""

    FULL = "full"
    SKELETON = "skeleton"
    """Every span with its times, status and small attributes; payloads cut to previews."""
    DROP = "drop"


class DecisionReason(StrEnum):
    """Why; the metric's label and the mark on the trace."""

    NO_RULE = "no_rule"
    """No rule takes it: it is stored whole."""
    KEEP = "keep"
    """The rule's action, here and below."""
    SKELETON = "skeleton"
    DROP = "drop"
    PROBABILITY = "probability"
    TARGET_BYTES = "target_bytes"
    BUDGET = "budget"
    EARLIER = "earlier"
    """It came late, and follows what was decided for its trace."""
    RESTORED = "restored"
    """It was cut or dropped before, and somebody has asked for it, or judged it."""


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided for one trace, by which rule, and how probable that was."""

    outcome: Outcome
    rule: str
    """Empty where no rule takes it."""
    reason: DecisionReason
    probability: float = 1.0
    """With which a trace like this one is stored whole."""
    weight: float = 1.0
    """How many traces this one stands for among all that are stored, in whatever form."""
    full_weight: float = 1.0
    """How many it stands for among those stored whole; 0 where it is not."""
    size: int = 0
    """The bytes that the decision was made by."""
    threshold: str = ""
    """OpenTelemetry's rejection threshold (`th`), where chance was its randomness."""


def marks(decision: Decision) -> dict[str, str]:
    """Trace metadata that says what was decided.

    `rule`, `reason`, `probability`, `weight` and `size_bytes` are always there: a count of all traces is
    the sum of `weight`, their bytes the sum of `weight` times `size_bytes`. `outcome` and `full_weight`
    are there where the trace might have become something else, or was something else before.
    """
    found = {
        "rule": decision.rule or "none",
        "reason": decision.reason.value,
        "probability": _number(decision.probability),
        "weight": _number(decision.weight),
        "size_bytes": str(decision.size),
    }
    restored = decision.reason is DecisionReason.RESTORED
    if decision.outcome is not Outcome.FULL or decision.probability < 1 or restored:
        found["outcome"] = decision.outcome.value
        found["full_weight"] = _number(decision.full_weight)
    if decision.threshold:
        found["ot"] = f"th:{decision.threshold}"
    return {f"{MARKS}{name}": value for name, value in found.items()}


def restored(trace: AssembledTrace, *, rule: str, before: Outcome, weight: float) -> AssembledTrace:
    """The whole trace, marked as one of which sampling had left less before.

    `rule`: what has asked for it. It stands for no others among those stored whole: chance has not
    chosen it.
    """
    decision = Decision(
        outcome=Outcome.FULL,
        rule=rule,
        reason=DecisionReason.RESTORED,
        weight=weight,
        full_weight=0.0,
        size=Traits(trace).size,
    )
    metadata = {**trace.trace.metadata, **marks(decision), f"{MARKS}restored": before.value}
    metadata.pop(SAMPLED_UPSTREAM, None)
    return replace(trace, trace=replace(trace.trace, metadata=metadata))


def read_outcome(metadata: Mapping[str, str]) -> Outcome:
    """What a stored trace's metadata says was stored of it."""
    text = metadata.get(f"{MARKS}outcome", Outcome.FULL.value)
    return Outcome(text) if text in set(Outcome) else Outcome.FULL


def _number(value: float) -> str:
    """Exact enough to add millions up, and short where it is round."""
    return f"{value:.12g}"
