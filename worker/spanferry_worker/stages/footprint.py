"""What events take in memory, so that limits on bytes are limits on memory.

A record's bytes say little of it: a span with a few tiny attributes is 60 bytes on the wire and 800 as
objects. The figures are CPython's, measured with tracemalloc and rounded up; a test measures again.
"""

from typing import Final

from spanferry_schemas import Assessment, Fragment, Span, TracePart

__all__ = ["FOLDED_BYTES", "PIECE_BYTES", "RECORD_BYTES", "TRACE_BYTES", "event_bytes"]

TRACE_BYTES: Final = 900
"""An open trace: its place on the shelves, its dicts and lists."""
FOLDED_BYTES: Final = 650
"""An open trace that is folded, beside its bytes."""
RECORD_BYTES: Final = 200
"""A record: its position, and that it is not decided yet."""
PIECE_BYTES: Final = 400
"""A piece of a value beside its data."""
_SPAN_BYTES: Final = 800
_ATTRIBUTE_BYTES: Final = 80
_EVENT_BYTES: Final = 120
_LINK_BYTES: Final = 160
_PART_BYTES: Final = 400
_ASSESSMENT_BYTES: Final = 1_000
_ATTACHMENT_BYTES: Final = 300


def event_bytes(event: Fragment | Assessment, size: int) -> int:
    """What a decoded event takes whose record has `size` bytes."""
    if isinstance(event, Assessment):
        return size + RECORD_BYTES + _ASSESSMENT_BYTES + _ATTRIBUTE_BYTES * len(event.metadata)
    part = event.trace
    return (
        size
        + RECORD_BYTES
        + _spans_bytes(event.spans)
        + _ATTACHMENT_BYTES * len(event.attachments)
        + (0 if part is None else _part_bytes(part))
    )


def _spans_bytes(spans: list[Span]) -> int:
    """Beside the bytes of what they hold."""
    total = _SPAN_BYTES * len(spans)
    for span in spans:
        total += _ATTRIBUTE_BYTES * len(span.attributes)
        if span.events:
            total += _EVENT_BYTES * len(span.events)
        if span.links:
            total += _LINK_BYTES * len(span.links)
    return total


def _part_bytes(part: TracePart) -> int:
    texts = len(part.tags) + len(part.metadata) + len(part.model_params) + len(part.prompts)
    return _PART_BYTES + _ATTRIBUTE_BYTES * (texts + len(part.deleted_tags))
