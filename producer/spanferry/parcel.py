"""What the calling thread hands over: parcels, and traces that have ended and become one.

Everything in a parcel is finished: nothing of it may change after `Outlet.put`, because the sender
thread reads it at its own time. Spans that end after their trace's root may still join it until then.
"""

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, TypeAlias

from msgspec import Struct

from spanferry.ended_span import EndedSpan
from spanferry.settings import Settings
from spanferry_schemas import Assessment, Attachment, End, TracePart

__all__ = [
    "NO_ROOM_BYTES",
    "PARCEL_OVERHEAD_BYTES",
    "TEXT_OVERHEAD_BYTES",
    "DropReason",
    "Outlet",
    "Parcel",
    "SentSpan",
    "Waiting",
    "Whole",
    "encoded",
    "none_dropped",
]

PARCEL_OVERHEAD_BYTES = 512
"""What a parcel costs beside its spans, for the buffer's account: objects, queue slot, trace part."""

NO_ROOM_BYTES = sys.maxsize
"""The size of a parcel that no buffer has room for: it is counted as dropped at once."""

TEXT_OVERHEAD_BYTES = 128
"""What a tag, or a text of the metadata, takes beside its characters."""


SentSpan: TypeAlias = EndedSpan | bytes


def encoded(spans: list[SentSpan]) -> list[bytes]:
    """Every span as it is sent."""
    return [span if isinstance(span, bytes) else span.encoded() for span in spans]


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

    `spans` have ended; `size` is about their total length in bytes plus PARCEL_OVERHEAD_BYTES plus
    the length of tags, metadata and previews.
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
