"""What an assembler holds, counted span by span."""

from spanferry_worker.stages.assemble import Assembler
from spanferry_worker.stages.open_trace import OpenTrace, _decode

__all__ = ["held_spans"]


def held_spans(assembler: Assembler) -> int:
    """Of its open traces, of what came late and of what waits; folded or not."""
    shelves = (assembler._open, assembler._late, assembler._alone)
    return sum(map(_spans_of, (entry for shelf in shelves for entry in shelf.values())))


def _spans_of(entry: OpenTrace) -> int:
    return len(_decode(entry.folded).spans if entry.folded else entry.spans)
