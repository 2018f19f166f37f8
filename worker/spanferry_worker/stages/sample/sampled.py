"""What is known of a trace that was decided before: what was stored of it, and where its records lie.

A skeleton says so itself, in its metadata; so nobody has to remember it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Final, NamedTuple

from msgspec.structs import replace

from spanferry_worker.stages.sample.decision import MARKS, Outcome, read_outcome
from spanferry_worker.stages.trace import AssembledTrace, Position

__all__ = [
    "ASKED_MARKS",
    "Sampled",
    "located",
    "read_records",
    "read_sampled",
    "records_text",
    "with_records",
]

_RECORDS: Final = f"{MARKS}records"
_WEIGHT: Final = f"{MARKS}weight"
ASKED_MARKS: Final = (f"{MARKS}outcome", _WEIGHT, _RECORDS)
"""The metadata that `read_sampled` reads."""
_TEXT_MAX: Final = 240
"""Characters: MLflow's protocol carries 250 of a metadata's value."""
_RECORDS_MAX: Final = 10_000
"""A text that names more is not one of ours."""
_OFFSET_MAX: Final = 2**63 - 1
_PLACE: Final = re.compile(
    r"([A-Za-z0-9._-]{1,249})/(\d{1,9}):(\d{1,19})((?:,\d{1,18}(?:x\d{1,5})?)*)"
)
_STEP: Final = re.compile(r",(\d+)(?:x(\d+))?")


class Sampled(NamedTuple):
    """What was decided on a trace before."""

    outcome: Outcome
    weight: float = 1.0
    positions: tuple[Position, ...] = ()
    """Where its records lie; empty where that is not known."""


def records_text(positions: Sequence[Position]) -> str | None:
    """Where records lie, as metadata can say it; None where that is too long for it, or nowhere.

    `topic/partition:offset`, then by how much each further offset is higher than the one before it;
    `1x3` are three in a row. A space divides partitions.
    """
    if len(positions) == 1:
        topic, partition, offset = positions[0]
        text = f"{topic}/{partition}:{offset}"
        return text if len(text) <= _TEXT_MAX else None
    offsets: dict[tuple[str, int], set[int]] = {}
    for topic, partition, offset in positions:
        offsets.setdefault((topic, partition), set()).add(offset)
    text = " ".join(
        f"{topic}/{partition}:{_steps_text(sorted(some))}"
        for (topic, partition), some in sorted(offsets.items())
    )
    return text if 0 < len(text) <= _TEXT_MAX else None


def _steps_text(offsets: Sequence[int]) -> str:
    words = [str(offsets[0])]
    for step, same in groupby(high - low for low, high in pairwise(offsets)):
        count = len(list(same))
        words.append(str(step) if count == 1 else f"{step}x{count}")
    return ",".join(words)


def read_records(text: str) -> tuple[Position, ...]:
    """What `records_text` has written; empty for what it has not."""
    found: list[Position] = []
    for word in text.split(" "):
        place = _PLACE.fullmatch(word)
        if place is None:
            return ()
        topic, partition, first, steps = place.groups()
        offset = int(first)
        found.append(Position(topic, int(partition), offset))
        for step, times in _STEP.findall(steps):
            for _ in range(int(times or 1)):
                offset += int(step)
                found.append(Position(topic, int(partition), offset))
                if len(found) > _RECORDS_MAX or offset > _OFFSET_MAX:
                    return ()
    return tuple(found)


def read_sampled(metadata: Mapping[str, str], topic: str) -> Sampled:
    """What a stored trace says of itself; records of another topic than this one count as unknown."""
    positions = read_records(metadata.get(_RECORDS, ""))
    if any(position.topic != topic for position in positions):
        positions = ()
    return Sampled(read_outcome(metadata), _weight(metadata.get(_WEIGHT, "")), positions)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 1.0
    return weight if math.isfinite(weight) and weight > 0 else 1.0


def with_records(metadata: dict[str, str], positions: Sequence[Position]) -> None:
    """Say in a skeleton's metadata where its records lie, if there is room for it."""
    text = records_text(positions)
    if text is not None:
        metadata[_RECORDS] = text


def located(trace: AssembledTrace, positions: Sequence[Position]) -> AssembledTrace:
    """More of a skeleton, which says where all records of it lie, those of before included."""
    metadata = dict(trace.trace.metadata)
    with_records(metadata, positions)
    return replace(trace, trace=replace(trace.trace, metadata=metadata))
