"""What undrop makes of a trace that it has found: whether it is needed, and the trace with its marks."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from spanferry_worker.sampling.finding import Found
from spanferry_worker.stages.parts import united
from spanferry_worker.stages.sample import (
    MARKS,
    Outcome,
    read_outcome,
    restored,
)
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["RULE", "Plan", "Verdict", "planned"]

RULE: Final = "undrop"
"""The rule that restored traces name."""


class Verdict(StrEnum):
    """What there is to do for a trace."""

    RESTORE = "restore"
    WHOLE = "whole"
    """It is stored whole already."""
    OPEN = "open"
    """It is not finished: a worker has not decided on it."""
    INCOMPLETE = "incomplete"
    """Spans of it are missing in Kafka."""
    SPANLESS = "spanless"
    """Kafka has feedback or tags of it, and none of its spans."""


class Plan(Struct, frozen=True):
    """One trace: what to do, and what would be written."""

    verdict: Verdict
    trace: AssembledTrace
    before: Outcome
    """What is stored of it: DROP stands for nothing."""


def planned(found: Found, stored: Mapping[str, str] | None, *, incomplete: bool) -> Plan:
    """`stored`: the metadata of what MLflow has of the trace; None for nothing.

    A skeleton keeps the weight that it has. A dropped trace gets the weight 1: it stands for itself.
    Neither stands for others among those stored whole: chance has not chosen it.
    """
    trace = united(found.pieces)
    before = Outcome.DROP if stored is None else read_outcome(stored)
    weight = 1.0 if stored is None else _weight(stored)
    marked = restored(trace, rule=RULE, before=before, weight=weight)
    return Plan(_verdict(found, trace, before, incomplete=incomplete), marked, before)


def _verdict(found: Found, trace: AssembledTrace, before: Outcome, *, incomplete: bool) -> Verdict:
    if before is Outcome.FULL:
        return Verdict.WHOLE
    if not trace.spans:
        return Verdict.SPANLESS
    if found.is_open:
        return Verdict.OPEN
    if not trace.complete and not incomplete:
        return Verdict.INCOMPLETE
    return Verdict.RESTORE


def _weight(stored: Mapping[str, str]) -> float:
    try:
        return float(stored.get(f"{MARKS}weight", "1"))
    except ValueError:
        return 1.0
