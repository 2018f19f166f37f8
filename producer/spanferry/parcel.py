"""What the calling thread hands over: parcels, and traces that have ended and become one.

Everything in a parcel is finished: nothing of it may change after `Outlet.put`, because the sender
thread reads it at its own time. Spans that end after their trace's root may still join it until then.
"""

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from spanferry.ended_span import EndedSpan
from spanferry.settings import Settings
from spanferry.values import text
from spanferry_schemas import Assessment, Attachment, End, TracePart

__all__ = [
    "NO_ROOM_BYTES",
    "PARCEL_OVERHEAD_BYTES",
    "DropReason",
    "Outlet",
    "Parcel",
    "SentSpan",
    "Waiting",
    "Whole",
    "assessment_size",
    "attachment_size",
    "encoded",
    "none_dropped",
    "part_size",
]

PARCEL_OVERHEAD_BYTES = 512
"""What a parcel costs beside its spans, for the buffer's account: objects, queue slot, trace part."""

_PART_BYTES: Final = 256
"""Of that for the trace's own part: enough for one in which only name and experiment are said."""

NO_ROOM_BYTES = sys.maxsize
"""The size of a parcel that no buffer has room for: it is counted as dropped at once."""

_TEXT_OVERHEAD_BYTES: Final = 128
"""What a tag, or a text of the metadata, takes beside its characters."""

_encode: Final = msgspec.msgpack.Encoder().encode

SentSpan: TypeAlias = EndedSpan | bytes


def encoded(spans: list[SentSpan]) -> list[bytes]:
    """Every span as it is sent."""
    return [span if isinstance(span, bytes) else span.encoded() for span in spans]


def part_size(part: TracePart) -> int:
    """About what a trace's own part takes, in bytes, beside what PARCEL_OVERHEAD_BYTES has of it. Other
    threads may be changing it.
    """
    texts = len(part.tags) + len(part.metadata) + len(part.model_params)
    return max(_written_size(part) + texts * _TEXT_OVERHEAD_BYTES - _PART_BYTES, 0)


def assessment_size(assessment: Assessment) -> int:
    """About what the parcel of an assessment takes, in bytes."""
    texts = len(assessment.metadata) * _TEXT_OVERHEAD_BYTES
    return PARCEL_OVERHEAD_BYTES + _written_size(assessment) + texts


def attachment_size(attachment: Attachment) -> int:
    """About what an attachment takes, in bytes."""
    return len(attachment.data) + len(attachment.attachment_id) + len(attachment.content_type)


def _written_size(words: TracePart | Assessment) -> int:
    """By writing it, which takes a quarter of the time of looking at every text in Python."""
    try:
        return len(_encode(words))
    except Exception:  # noqa: BLE001  MLflow's own code may have put something else there than texts
        return len(text(words))


class DropReason(StrEnum):
    """Why a parcel was given up, and a trace with it."""

    FULL = "buffer_full"
    OVERSIZE = "oversize"
    """Above what the buffer, or the wire, can carry at all."""
    REFUSED = "refused"
    """The topic takes not even the smallest records."""
    BROKEN = "broken"
    """Could not be handed over or encoded: a fault of ours."""


def none_dropped() -> dict[str, int]:
    """Counts by reason, to begin with. Its keys stay, so that any thread may read it."""
    return {reason.value: 0 for reason in DropReason}


class Whole(Struct, gc=False):
    """What the parcels have in common in which a long trace is handed over: one goes with the others."""

    begun: bool = False
    """The sender has sent one, or put it into the spool: too late to drop all of them."""
    doomed: bool = False
    """One was dropped before that: none is to be sent any more."""
    torn: bool = False
    """One was dropped later: what remains says so."""

    reason: DropReason | None = None
    """What the first of those that were dropped was dropped for."""

    def lose(self, reason: DropReason) -> DropReason:
        """One of them was dropped. Why the first one was."""
        if self.begun:
            self.torn = True
        else:
            self.doomed = True
        self.reason = first = self.reason or reason
        return first


class Waiting(Protocol):
    """What an outlet takes: a parcel, or a trace that becomes one when the sender looks at it."""

    @property
    def size(self) -> int:
        """About what it takes, in bytes. Does not change after `Outlet.put`."""
        ...

    @property
    def ends_trace(self) -> bool:
        """Whether the trace's local root is in it."""
        ...

    @property
    def whole(self) -> Whole | None:
        """None where the trace has no other parcels."""
        ...

    def parcel(self) -> "Parcel":
        """What is to be sent. Asked for once."""
        ...


class Parcel(Struct, gc=False):
    """Spans of one trace, or one assessment, on their way to Kafka.

    `spans` have ended; `size` is about what all of it takes in bytes, `part_size` of the trace's own
    part included.
    `error` says whether a span has status ERROR, `root_duration_ns` is 0 where the root is not in
    it, `session` is the trace's session id where it is known. `remote`: another service owns the
    trace, so this process's environment is not the trace's. `attachments` are counted in `size` too.
    `broken`: the trace could not be handed over; this is here to be counted, of NO_ROOM_BYTES.
    """

    trace_id: bytes
    size: int
    spans: list[SentSpan] = []
    trace: TracePart | None = None
    end: End | None = None
    error: bool = False
    root_duration_ns: int = 0
    session: str | None = None
    assessment: Assessment | None = None
    remote: bool = False
    attachments: Sequence[Attachment] = ()
    whole: Whole | None = None
    broken: bool = False

    @property
    def ends_trace(self) -> bool:
        """Whether the trace's local root is in it."""
        return self.end is not None

    def parcel(self) -> "Parcel":
        """Itself."""
        return self


class Outlet(Protocol):
    """Where finished parcels go: the client's buffer, or a test's list."""

    @property
    def settings(self) -> Settings:
        """The options in force."""
        ...

    def put(self, waiting: Waiting, /) -> object:
        """Take it or count it as dropped. Never waits, never raises, safe in any thread."""
        ...
