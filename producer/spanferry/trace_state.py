"""What one process knows of one trace, from its local root's start on."""

from collections import deque
from itertools import count
from time import perf_counter_ns
from typing import ClassVar, Final, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from spanferry import outlet as outlets
from spanferry.parcel import PARCEL_OVERHEAD_BYTES, Outlet, Parcel, SentSpan
from spanferry.process import PROCESS
from spanferry_schemas import Attachment, End, TracePart, mlflow_keys

__all__ = ["LiveTrace", "OpenedSpan"]

_SESSION: Final = mlflow_keys.METADATA_SESSION


class OpenedSpan(Protocol):
    """A span that has been started, whoever made it."""

    @property
    def span_id_bytes(self) -> bytes: ...


class LiveTrace(Struct, eq=False):
    """A trace that is open, or has ended while some of its spans go on.

    Its spans may start and end in several threads at once. There is no lock that a fork or a signal
    could leave closed: a span is appended first and the end is looked at afterwards, the root sets
    the end first and collects afterwards, and `popleft` gives every span to exactly one of them.

    A Struct, because every trace is one: msgspec sets its fields without running any Python.
    """

    keeps_spans: ClassVar[bool] = False
    """Whether `opened` does more than counting."""

    trace_id: bytes
    outlet: Outlet
    facts: TracePart
    """The trace's own part while it may still change. All text in it is encodable in UTF-8."""
    clock_ns: int
    """What to add to perf_counter_ns() for nanoseconds since 1970: time that never goes back."""
    sent_ns: int
    """When it was opened or something was handed over last, by perf_counter_ns."""
    fragment_bytes: int
    """With so much ..."""
    fragment_age_ns: int
    """... or after so long it hands over what has ended, though it goes on."""
    remote: bool = False
    """The local root has its parent in another service, which owns the trace."""
    forks: int = 0
    changed: bool = False
    ended: bool = False
    attachments: list[Attachment] = []
    """What waits to be handed over with the spans."""
    pending: deque[SentSpan] = field(default_factory=deque)
    """Spans that have ended and wait."""
    pending_bytes: int = 0
    """About what they take, attachments and texts of the trace's own part included; where threads
    end spans at once an update may be lost."""
    failed: bool = False
    """One of them has."""
    spans: "count[int]" = field(default_factory=count)
    contexts_out: int = 0

    def now_ns(self) -> int:
        """Nanoseconds since 1970, by the wall clock at the trace's start."""
        return self.clock_ns + perf_counter_ns()

    def opened(self, span: OpenedSpan) -> None:  # noqa: ARG002  for those who keep the spans
        """A span has been started. Where `keeps_spans` is False, `next(trace.spans)` does the same."""
        next(self.spans)

    def count_context_out(self) -> None:
        """The trace's context is being handed to another service."""
        self.contexts_out += 1  # a lost update lets the worker wait less; what is late is added

    def attach(self, attachment: Attachment) -> None:
        """Take bytes that a span refers to; they go with the spans that are handed over next."""
        self.attachments.append(attachment)
        self.pending_bytes += len(attachment.data)

    def weigh(self, *texts: str | None) -> None:
        """Texts have been put into the trace's own part."""
        self.pending_bytes += sum(len(text) for text in texts if text is not None)

    def add(self, span: SentSpan, size: int, *, error: bool) -> None:
        """Take a span that has ended and is not the local root, of about `size` bytes."""
        if self.forks != PROCESS.forks:
            self._hand_over_from_fork(span, size, error=error)
            return
        self.pending.append(span)
        self.pending_bytes += size
        if error:
            self.failed = True
        if self.ended:
            self._hand_over(None, None)
            return
        if (
            self.pending_bytes > self.fragment_bytes
            or perf_counter_ns() - self.sent_ns > self.fragment_age_ns
        ):
            self._hand_over(self._part(), None)

    def finish(self, root: SentSpan, size: int, *, error: bool, duration_ns: int) -> None:
        """Take the local root, which has ended, and hand over all there is, with the end marker."""
        self.pending.append(root)
        self.pending_bytes += size
        if error:
            self.failed = True
        self.ended = True
        end = End(next(self.spans), self.contexts_out, self.remote)
        if not self.remote:
            self._hand_over(self.facts, end, max(duration_ns, 0))
        else:
            self._hand_over(self.facts if self.changed else None, end)

    def hand_over_what_has_ended(self) -> None:
        """Hand over the spans that have ended, though the trace goes on."""
        if self.pending and self.forks == PROCESS.forks:
            self._hand_over(self._part(), None)

    def _part(self) -> TracePart | None:
        """The trace's own part as it is now; of another service's trace only what was set here."""
        if self.remote and not self.changed:
            return None
        facts = self.facts
        return replace(facts, tags=facts.tags.copy(), metadata=facts.metadata.copy())

    def _hand_over(self, part: TracePart | None, end: End | None, duration_ns: int = 0) -> None:
        spans: list[SentSpan] = []
        pending = self.pending
        while pending:
            try:
                spans.append(pending.popleft())
            except IndexError:  # another thread was faster
                break
        if not spans and end is None:
            return
        size, failed = PARCEL_OVERHEAD_BYTES + self.pending_bytes, self.failed
        self.pending_bytes = 0
        self.failed = False
        attachments = self.attachments
        if attachments:
            self.attachments = []
        if end is None:
            self.sent_ns = perf_counter_ns()
        session = self.facts.metadata.get(_SESSION)
        parcel = Parcel(
            self.trace_id, size, spans, part, end, failed, duration_ns, session, None, self.remote
        )
        if attachments:
            parcel.attachments = attachments
        self.outlet.put(parcel)

    def _hand_over_from_fork(self, span: SentSpan, size: int, *, error: bool) -> None:
        """A span of a forked process: what waits here is the parent's, and so is the end marker."""
        target = outlets.current() or self.outlet
        target.put(Parcel(self.trace_id, size + PARCEL_OVERHEAD_BYTES, [span], error=error))
