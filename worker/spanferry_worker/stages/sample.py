"""sample: what is kept of a trace, by its size. A pure function, so that a replay decides the same."""

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from spanferry_schemas import Attachment, Span
from spanferry_worker.stages.skeleton import skeleton
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["Decision", "DecisionReason", "Outcome", "Sampler", "SamplingPolicy"]


class Outcome(StrEnum):
    """What is stored of a trace."""

    FULL = "full"
    SKELETON = "skeleton"
    """Every span with its times, status and small attributes; payloads cut to previews."""
    DROP = "drop"


class DecisionReason(StrEnum):
    """Why; the metric's label and the mark on the trace."""

    KEEP_ALL = "keep_all"
    """No rule says otherwise."""
    SIZE = "size"
    """Larger than `full_bytes_max`."""


class Decision(Struct, frozen=True):
    """What was decided for one trace, by which rule, and how probable that was."""

    outcome: Outcome
    rule: str
    probability: float
    reason: DecisionReason


class SamplingPolicy(Struct, frozen=True, kw_only=True):
    """The rules. The default keeps everything as it came."""

    full_bytes_max: int | None = None
    """Traces with more record bytes than this, attachments apart, are cut to skeletons; None: never."""
    attribute_bytes_max: int = 1_024
    """In a skeleton, the longest attribute that stays whole; longer ones become previews of this."""
    events_bytes_max: int = 8_192
    """In a skeleton, the most that the events of one span may have together."""

    def __post_init__(self) -> None:
        if self.full_bytes_max is not None and self.full_bytes_max < 1:
            raise ValueError("full_bytes_max must be at least 1, or left out to keep all whole")
        if self.attribute_bytes_max < 64:
            raise ValueError(
                "attribute_bytes_max must be at least 64, so that a preview says something"
            )
        if self.events_bytes_max < 0:
            raise ValueError("events_bytes_max must not be negative")


_KEEP_ALL = Decision(Outcome.FULL, "keep_all", 1.0, DecisionReason.KEEP_ALL)
_TOO_BIG = Decision(Outcome.SKELETON, "full_bytes_max", 1.0, DecisionReason.SIZE)


class Sampler:
    """Decides by a policy, and does what was decided."""

    def __init__(self, policy: SamplingPolicy) -> None:
        self._policy = policy

    def decide(self, trace: AssembledTrace) -> Decision:
        """What is to be kept of the trace: the first rule that matches."""
        ceiling = self._policy.full_bytes_max
        if ceiling is not None and trace.size - _attached_bytes(trace) > ceiling:
            return _TOO_BIG
        return _KEEP_ALL

    def apply(self, trace: AssembledTrace, decision: Decision) -> AssembledTrace | None:
        """What is written: the trace itself, its marked skeleton, or None where it is dropped."""
        match decision.outcome:
            case Outcome.FULL:
                return trace
            case Outcome.DROP:
                return None
            case Outcome.SKELETON:
                spans = [
                    skeleton(
                        span,
                        attribute_bytes_max=self._policy.attribute_bytes_max,
                        events_bytes_max=self._policy.events_bytes_max,
                    )
                    for span in trace.spans
                ]
                part = replace(trace.trace, metadata={**trace.trace.metadata, **_marks(decision)})
                kept = [one for one in trace.attachments if _is_referred_to(one, spans)]
                return replace(trace, spans=spans, trace=part, attachments=kept)


def _attached_bytes(trace: AssembledTrace) -> int:
    return sum(len(attachment.data) for attachment in trace.attachments)


def _is_referred_to(attachment: Attachment, spans: Sequence[Span]) -> bool:
    """Whether what is left of the payloads still names it: what was cut needs no attachment."""
    name = attachment.attachment_id.encode()
    return any(name in value for span in spans for value in span.attributes.values())


def _marks(decision: Decision) -> dict[str, str]:
    """Trace metadata that says what was decided. A trace kept whole for sure bears no mark."""
    return {
        "spanferry.sampling.outcome": decision.outcome.value,
        "spanferry.sampling.rule": decision.rule,
        "spanferry.sampling.reason": decision.reason.value,
        "spanferry.sampling.probability": f"{decision.probability:g}",
        "spanferry.sampling.weight": f"{1 / decision.probability:g}",
    }
