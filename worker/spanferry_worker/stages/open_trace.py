"""One open trace: what has come of it, what is still to come, and how it is kept where nothing comes."""

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from spanferry_schemas import Assessment, Attachment, End, Span, TracePart
from spanferry_worker.stages.footprint import FOLDED_BYTES, RECORD_BYTES, TRACE_BYTES

if TYPE_CHECKING:
    from spanferry_worker.stages.trace import Position

__all__ = ["OpenTrace", "Tally"]


class _Content(Struct, array_like=True, gc=False):
    """What is folded."""

    part: TracePart | None
    spans: list[Span]
    assessments: list[Assessment]
    attachments: list[Attachment]
    keys: list[int]


_encode_into: Final = msgspec.msgpack.Encoder().encode_into
_decode: Final = msgspec.msgpack.Decoder(_Content).decode


def _encode(content: _Content) -> bytes:
    """Without the room that `encode` leaves behind its bytes, up to half of them."""
    buffer = bytearray()
    _encode_into(content, buffer)
    return bytes(buffer)


class Tally(Struct, gc=False):
    """What the end markers of a trace say, against what has come."""

    spans: int = 0
    spans_wanted: int = 0
    contexts_out: int = 0
    remote_ends: int = 0
    root_ended: bool = False
    whole: bool = False
    """Was complete once, and stays so: what comes then is a repeat or a surplus."""

    def count(self, end: End) -> None:
        self.spans_wanted += end.spans
        self.contexts_out += end.contexts_out
        if end.remote_parent:
            self.remote_ends += 1
        else:
            self.root_ended = True

    def completed(self) -> bool:
        """True once: at the event that makes the trace complete as the wire defines it, see End."""
        if self.whole or not (
            self.root_ended
            and self.spans >= self.spans_wanted
            and self.remote_ends >= self.contexts_out
        ):
            return False
        self.whole = True
        return True


class OpenTrace:
    """A trace that is being assembled, or what came late for one, or feedback without one."""

    __slots__ = (
        "assessments",
        "attachments",
        "cut",
        "first_ms",
        "folded",
        "held_bytes",
        "keys",
        "part",
        "positions",
        "seen_ms",
        "size",
        "spans",
        "tally",
        "trace_id",
        "unfolded_bytes",
    )

    def __init__(self, trace_id: bytes | None, now_ms: int, tally: Tally) -> None:
        self.trace_id = trace_id
        self.first_ms = now_ms
        self.seen_ms = now_ms
        self.tally = tally
        self.part: TracePart | None = None
        self.spans: dict[bytes, Span] = {}
        self.assessments: dict[str, Assessment] = {}
        self.attachments: dict[str, Attachment] = {}
        self.keys: set[int] = set()
        self.positions: list[Position] = []
        self.size = 0
        self.held_bytes = 0
        self.cut = False
        """Its payloads are cut to previews, those too that still come: see Giants."""
        self.folded = b""
        """All of the above that takes much, while it is folded."""
        self.unfolded_bytes = 0
        """What it took before."""

    def hold(self, held_bytes: int) -> int:
        """So many bytes more; how many bytes more that is in all."""
        if not self.held_bytes:
            held_bytes += TRACE_BYTES
        self.held_bytes += held_bytes
        return held_bytes

    def fold(self) -> int:
        """Keep what has come as bytes; how many bytes less that takes, 0 where it is not worth it."""
        if self.folded:
            return 0
        content = _Content(
            self.part,
            list(self.spans.values()),
            list(self.assessments.values()),
            list(self.attachments.values()),
            list(self.keys),
        )
        folded = _encode(content)
        held_bytes = FOLDED_BYTES + RECORD_BYTES * len(self.positions) + len(folded)
        if held_bytes >= self.held_bytes:
            return 0
        self.folded, self.unfolded_bytes = folded, self.held_bytes
        self.part, self.spans, self.assessments = None, _NO_SPANS, _NO_ASSESSMENTS
        self.attachments, self.keys = _NO_ATTACHMENTS, _NO_KEYS
        freed = self.held_bytes - held_bytes
        self.held_bytes = held_bytes
        return freed

    def unfold(self) -> int:
        """Make objects of it again; how many bytes more these take."""
        content = _decode(self.folded)
        self.folded = b""
        self.part = content.part
        self.spans = {span.span_id: span for span in content.spans}
        self.assessments = {one.assessment_id: one for one in content.assessments}
        self.attachments = {one.attachment_id: one for one in content.attachments}
        self.keys = set(content.keys)
        taken = self.unfolded_bytes - self.held_bytes
        self.held_bytes = self.unfolded_bytes
        return taken


_NO_SPANS: Final[dict[bytes, Span]] = {}
_NO_ASSESSMENTS: Final[dict[str, Assessment]] = {}
_NO_ATTACHMENTS: Final[dict[str, Attachment]] = {}
_NO_KEYS: Final[set[int]] = set()
"""Of everything that is folded, so that it takes nothing; never added to."""
