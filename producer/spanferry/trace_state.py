"""What one process knows of one trace, from its local root's start on."""

from collections import deque
from itertools import count
from time import perf_counter_ns, time_ns

from msgspec import Struct

from spanferry import outlet as outlets
from spanferry.parcel import PARCEL_OVERHEAD_BYTES, Outlet, Parcel
from spanferry.process import PROCESS
from spanferry_schemas import Attachment, End, TracePart, TraceState, mlflow_keys

__all__ = ["LiveTrace", "TraceFacts"]

_NONE: list[Attachment] = []
"""Shared by all traces without attachments, so never added to."""


class TraceFacts(Struct):
    """The trace's own part while it may still change. All text in it is encodable in UTF-8."""

    experiment_id: str | None = None
    experiment: str | None = None
    state: TraceState | None = None
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    tags: dict[str, str] = {}
    metadata: dict[str, str] = {}
    active_model: str | None = None
    model_params: dict[str, str] = {}
    """Of the active model by name; never changed, so traces share it."""
    files_inline: bool = False

    def part(self) -> TracePart:
        """The facts as they are now."""
        return TracePart(
            self.experiment_id,
            self.experiment,
            self.state,
            self.client_request_id,
            self.request_preview,
            self.response_preview,
            self.tags.copy(),
            self.metadata.copy(),
            self.active_model,
            {} if self.active_model is None else self.model_params,
            files_inline=self.files_inline,
        )


class LiveTrace:
    """A trace that is open, or has ended while some of its spans go on.

    Its spans may start and end in several threads at once. There is no lock that a fork or a signal
    could leave closed: a span is appended first and the end is looked at afterwards, the root sets
    the end first and collects afterwards, and `popleft` gives every span to exactly one of them.
    """

    __slots__ = (
        "_age_ns",
        "_contexts_out",
        "_forks",
        "_fragment_bytes",
        "_outlet",
        "_pending",
        "_pending_bytes",
        "_sent_ns",
        "_spans",
        "attachments",
        "changed",
        "clock_ns",
        "ended",
        "facts",
        "remote",
        "trace_id",
    )

    def __init__(self, trace_id: bytes, outlet: Outlet, facts: TraceFacts, *, remote: bool) -> None:
        """`remote`: the local root has its parent in another service, which owns the trace."""
        settings = outlet.settings
        self.trace_id = trace_id
        self.facts = facts
        self.remote = remote
        self.changed = False
        self.ended = False
        self.attachments: list[Attachment] = _NONE
        """What waits to be handed over with the spans; `attach` adds to it."""
        self._outlet = outlet
        self._forks = PROCESS.forks
        self._fragment_bytes = settings.fragment_bytes
        self._age_ns = settings.fragment_age_s * 1e9
        self._pending: deque[tuple[bytes, bool]] = deque()
        self._pending_bytes = 0
        self._spans = count()
        self._contexts_out = count()
        self._sent_ns = perf_counter_ns()
        self.clock_ns = time_ns() - self._sent_ns
        """What to add to perf_counter_ns() for nanoseconds since 1970: time that never goes back."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970, by the wall clock at the trace's start."""
        return self.clock_ns + perf_counter_ns()

    def opened(self, span: object) -> None:  # noqa: ARG002  for those who keep the spans
        """A span has been started."""
        next(self._spans)

    def count_context_out(self) -> None:
        """The trace's context is being handed to another service."""
        next(self._contexts_out)

    def attach(self, attachment: Attachment) -> None:
        """Take bytes that a span refers to; they go with the spans that are handed over next."""
        if self.attachments is _NONE:
            self.attachments = []
        self.attachments.append(attachment)
        self._pending_bytes += len(attachment.data)

    def add(self, span: bytes, *, error: bool) -> None:
        """Take an encoded span that has ended and is not the local root."""
        if self._forks != PROCESS.forks:
            self._hand_over_from_fork(span, error=error)
            return
        self._pending.append((span, error))
        self._pending_bytes += len(span)  # only for the threshold, so a lost update does not matter
        if self.ended:
            self._hand_over(None, None)
        elif (
            self._pending_bytes > self._fragment_bytes
            or perf_counter_ns() - self._sent_ns > self._age_ns
        ):
            self._hand_over(self._part(), None)

    def finish(self, root: bytes, *, error: bool, duration_ns: int) -> None:
        """Take the encoded local root and hand over all there is, with the end marker."""
        self._pending.append((root, error))
        self.ended = True
        end = End(next(self._spans), next(self._contexts_out), self.remote)
        self._hand_over(self._part(), end, 0 if self.remote else max(duration_ns, 0))

    def hand_over_what_has_ended(self) -> None:
        """Hand over the spans that have ended, though the trace goes on."""
        if self._pending and self._forks == PROCESS.forks:
            self._hand_over(self._part(), None)

    def _part(self) -> TracePart | None:
        """The trace's own part; of another service's trace only what was set here by hand."""
        return None if self.remote and not self.changed else self.facts.part()

    def _hand_over(self, part: TracePart | None, end: End | None, duration_ns: int = 0) -> None:
        spans: list[bytes] = []
        size = PARCEL_OVERHEAD_BYTES if part is None else PARCEL_OVERHEAD_BYTES + _length(part)
        error = False
        pending = self._pending
        self._pending_bytes = 0
        self._sent_ns = perf_counter_ns()
        while pending:
            try:
                span, failed = pending.popleft()
            except IndexError:  # another thread was faster
                break
            spans.append(span)
            size += len(span)
            error = error or failed
        if not spans and end is None:
            return
        attachments, self.attachments = self.attachments, _NONE
        for attachment in attachments:
            size += len(attachment.data)
        session = self.facts.metadata.get(mlflow_keys.METADATA_SESSION)
        parcel = Parcel(
            self.trace_id,
            size,
            spans,
            part,
            end,
            error,
            duration_ns,
            session,
            remote=self.remote,
            attachments=attachments,
        )
        self._outlet.put(parcel)

    def _hand_over_from_fork(self, span: bytes, *, error: bool) -> None:
        """A span of a forked process: what waits here is the parent's, and so is the end marker."""
        target = outlets.current() or self._outlet
        target.put(Parcel(self.trace_id, len(span) + PARCEL_OVERHEAD_BYTES, [span], error=error))


def _length(part: TracePart) -> int:
    """About what a trace's part takes, for the buffer's account."""
    size = len(part.request_preview or "") + len(part.response_preview or "")
    for texts in (part.tags, part.metadata, part.model_params):
        for key, value in texts.items():
            size += len(key) + len(value)
    return size
