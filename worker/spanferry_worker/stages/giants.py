"""Open traces that take too much: their payloads are cut to previews before anything is written early.

An open trace cannot be written whole, because it is not whole, and pausing intake does not make it any
smaller: what would complete it lies behind. So of giants the skeletons are kept, and they can go on.
"""

from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from spanferry_schemas import Fragment, Span, TracePart
from spanferry_worker.stages.skeleton import CUT_ATTRIBUTE, skeleton

__all__ = ["OVERLOAD_KEY", "OVERLOAD_MARK", "Giant", "GiantPolicy", "Giants", "marked"]

OVERLOAD_KEY: Final = "spanferry.overload"
"""Trace metadata of a trace whose payloads were cut because the worker held too much."""
OVERLOAD_MARK: Final = "skeleton"
"""Its value. What was cut of each span stands in the span's attribute `spanferry.cut`."""


class GiantPolicy(Struct, frozen=True, kw_only=True):
    """Which open traces are giants, and what is left of their payloads when they are cut."""

    giant_bytes: int = 1024 * 1024
    """An open trace that takes more than this in memory may have its payloads cut to previews, the
    largest first, when open traces together take more than `bytes_max`."""
    giant_attribute_bytes_max: int = 1_024
    """Of a giant that is cut, the longest attribute that stays whole; longer ones become previews."""
    giant_events_bytes_max: int = 8_192
    """... and the most that the events of one span may have together."""

    def __post_init__(self) -> None:
        if self.giant_bytes < 1 or self.giant_events_bytes_max < 0:
            raise ValueError("giant_bytes must be at least 1, giant_events_bytes_max at least 0")
        if self.giant_attribute_bytes_max < 64:
            raise ValueError(
                "giant_attribute_bytes_max must be at least 64, so that a preview says something"
            )


class Giant(Protocol):
    """An open trace, as far as this concerns it."""

    spans: dict[bytes, Span]
    held_bytes: int
    cut: bool


_G = TypeVar("_G", bound=Giant)


class Giants(Generic[_G]):
    """The giants among the open traces of one partition, as long as they are not cut."""

    def __init__(self, policy: GiantPolicy) -> None:
        self._policy = policy
        self._uncut: dict[bytes, _G] = {}

    def saw(self, trace_id: bytes, trace: _G) -> None:
        """An open trace has grown."""
        if self.is_giant(trace) and not trace.cut:
            self._uncut[trace_id] = trace

    def is_giant(self, trace: _G) -> bool:
        """Whether it is large enough to be one."""
        return trace.held_bytes > self._policy.giant_bytes

    def gone(self, trace_id: bytes) -> None:
        """A trace is not open any more."""
        self._uncut.pop(trace_id, None)

    @property
    def largest_bytes(self) -> int:
        """What the largest takes; 0 where there is none."""
        return max((giant.held_bytes for giant in self._uncut.values()), default=0)

    def cut_largest(self) -> int | None:
        """Cut the payloads of the largest giant; the bytes that it is smaller by. None: there is none.

        It stays open, and what still comes for it is to be cut by `cut_on_arrival`.
        """
        if not self._uncut:
            return None
        trace_id = max(self._uncut, key=lambda each: self._uncut[each].held_bytes)
        giant = self._uncut.pop(trace_id)
        giant.cut = True
        before = giant.spans
        giant.spans = {span_id: self._cut(span) for span_id, span in before.items()}
        freed = _payload_bytes(before.values()) - _payload_bytes(giant.spans.values())
        giant.held_bytes -= freed
        return freed

    def cut_on_arrival(self, event: Fragment) -> tuple[Fragment, int]:
        """More of a trace that was cut, cut as well, and the bytes that it is smaller by."""
        spans = [self._cut(span) for span in event.spans]
        freed = _payload_bytes(event.spans) - _payload_bytes(spans)
        return replace(event, spans=spans), freed

    def _cut(self, span: Span) -> Span:
        small = skeleton(
            span,
            attribute_bytes_max=self._policy.giant_attribute_bytes_max,
            events_bytes_max=self._policy.giant_events_bytes_max,
        )
        return small if _bytes_of(small) < _bytes_of(span) else span


def marked(part: TracePart, spans: Iterable[Span]) -> TracePart:
    """The trace's own part, with the mark that payloads were cut where any of them was."""
    if not any(CUT_ATTRIBUTE in span.attributes for span in spans):
        return part
    return replace(part, metadata={**part.metadata, OVERLOAD_KEY: OVERLOAD_MARK})


def _payload_bytes(spans: Iterable[Span]) -> int:
    return sum(map(_bytes_of, spans))


def _bytes_of(span: Span) -> int:
    total = sum(map(len, span.attributes.values()))
    if span.events:
        total += sum(len(event.name) + len(event.attributes) for event in span.events)
    if span.links:
        total += sum(len(link.attributes) for link in span.links)
    return total
