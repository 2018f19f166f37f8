"""What is done when open traces take more memory than they may: fold, THEN cut giants, THEN write early.

The step before is not here: intake pauses while the worker as a whole holds too much (see FlowGate).
"""

from collections.abc import Sequence
from typing import NamedTuple

from spanferry_worker.stages.assemble import Assembler
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["Shed", "shed"]


class Shed(NamedTuple):
    """What was done so that open traces take less memory."""

    cut: int
    """Traces whose payloads were cut; they are still open."""
    written: list[tuple[int, AssembledTrace]]
    """Traces to be written as they stand, each with the index of its assembler."""


def shed(assemblers: Sequence[Assembler], bytes_max: int) -> Shed:
    """Make all of them together hold at most `bytes_max`.

    First traces that nothing came for are kept as bytes, in turns those of the fullest assembler; that loses
    nothing. THEN payloads of giants are cut, the largest first, THEN traces are given out as they stand:
    the oldest of the fullest assembler first.
    """
    cut = 0
    written: list[tuple[int, AssembledTrace]] = []
    held = _folded(assemblers, bytes_max)
    total = sum(held)
    while total > bytes_max:
        largest = max(assemblers, key=lambda each: each.largest_giant_bytes)
        freed = largest.cut_giant()
        if freed is not None:
            cut += freed > 0
            held = [assembler.held_bytes for assembler in assemblers]
        else:
            index = max(range(len(held)), key=held.__getitem__)
            trace = assemblers[index].evict()
            if trace is None:
                break
            written.append((index, trace))
            held[index] = assemblers[index].held_bytes
        total = sum(held)
    return Shed(cut, written)


def _folded(assemblers: Sequence[Assembler], bytes_max: int) -> list[int]:
    """Fold as much as is needed, if there is as much; what each holds then."""
    held = [assembler.held_bytes for assembler in assemblers]
    left = set(range(len(assemblers)))
    total = sum(held)
    while total > bytes_max and left:
        index = max(left, key=held.__getitem__)
        freed = assemblers[index].fold_idlest()
        if freed is None:
            left.discard(index)
        else:
            held[index] -= freed
            total -= freed
    return held
