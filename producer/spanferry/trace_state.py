"""What one process knows of one trace, from its local root's start on."""

import sys
from time import perf_counter_ns
from typing import Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from spanferry import outlet as outlets
from spanferry.ended_span import EndedSpan
from spanferry.parcel import (
    NO_ROOM_BYTES,
    PARCEL_OVERHEAD_BYTES,
    DropReason,
    Outlet,
    Parcel,
    SentSpan,
    Whole,
    attachment_size,
    part_size,
)
from spanferry.process import PROCESS
from spanferry.values import text
from spanferry.watching import Account
from spanferry_schemas import Attachment, End, TracePart, mlflow_keys

__all__ = ["INCOMPLETE", "LiveTrace", "OpenedSpan", "TraceDefaults", "lose"]

T = TypeVar("T")

_SESSION: Final = mlflow_keys.METADATA_SESSION
_TRACE_NAME: Final = mlflow_keys.TAG_TRACE_NAME


INCOMPLETE: Final = "spanferry.incomplete"
"""Metadata of a trace of which spans are missing, because a part of it was dropped."""
_DROPPED: Final = "dropped"

_HANDED_OVER: Final = b""
"""In the place of a root that the sender has taken: a span that goes on does not keep it."""


class TraceDefaults(Struct, frozen=True):
    """What new traces take from the settings and from MLflow's environment variables; read once for
    every `enable()`."""

    outlet: Outlet
    ratio: float = 1.0
    model_id: str | None = None
    experiment_id: str | None = None
    experiment: str | None = None
    fragment_bytes: int = 0
    fragment_age_ns: int = 0


class OpenedSpan(Protocol):
    """A span that has been started, whoever made it."""

    @property
    def span_id_bytes(self) -> bytes: ...


class LiveTrace(Struct, eq=False):
    """A trace that is open, or has ended while some of its spans go on.

    Its spans may start and end in several threads at once. There is no lock that a fork or a signal
    could leave closed: a span is appended first and the end is looked at afterwards, the root sets
    the end and then puts the trace into the outlet, and `pop` gives every span to exactly one of
    those who collect: the sender, or a thread in which a span ends late.

    A Struct, because every trace is one: msgspec sets its fields without running any Python.
    """

    trace_id: bytes
    defaults: TraceDefaults
    own_facts: TracePart | None
    """`facts`, once somebody has asked for them."""
    clock_ns: int
    """What to add to perf_counter_ns() for nanoseconds since 1970: time that never goes back."""
    fragment_bytes: int
    """With so much ..."""
    due_ns: int
    """... or from then on it hands over what has ended, though it goes on."""
    remote: bool = False
    """The local root has its parent in another service, which owns the trace."""
    forks: int = 0
    name: str = ""
    """The root's. Until somebody asks, `facts` are no more than this and the experiment: of most traces
    nobody does but the sender, at the end."""
    changed: bool = False
    root: SentSpan | None = None
    """The local root, once it has ended. From then on `facts` are the sender's."""
    attachments: list[Attachment] | None = None
    """What waits to be handed over with the spans."""
    pending: list[SentSpan] = []
    """Spans that have ended and wait, without the root."""
    pending_bytes: int = 0
    """About what they take, attachments included; where threads end spans at once an update may be
    lost. Of no use after the end."""
    failed: bool = False
    """One of them has."""
    spans: int = 0
    """How many have been started. Where threads start spans at once an update may be lost: the worker
    then waits for one less, and adds what is late."""
    contexts_out: int = 0
    """How often its context was handed to another service."""
    size: int = 0
    """When it has ended: what it takes from then on until the sender has asked for its parcel."""
    spans_at_end: int = 0
    root_duration_ns: int = 0
    """Of a root that is encoded."""
    keeps_spans: bool = False
    """Whether `opened` and `finish` do more than here."""
    look_at: int = sys.maxsize
    """With more spans than that it is to `look`."""
    sent_facts: TracePart | None = None
    """With redaction: `facts` as they are sent, once the trace has ended. Who was changing those
    meanwhile changes nothing here."""
    account: Account | None = None
    """What it costs, where that is watched."""
    ends_trace: bool = True
    """An outlet is given a trace when its local root has ended."""
    whole: Whole | None = None
    """Of one that was handed over in parts before its end."""

    @property
    def ended(self) -> bool:
        """Whether the local root has."""
        return self.root is not None

    @property
    def facts(self) -> TracePart:
        """The trace's own part, while it may still change. All text in it is encodable in UTF-8."""
        if self.own_facts is not None:
            return self.own_facts
        tags = {_TRACE_NAME: text(self.name)}
        made = TracePart(self.defaults.experiment_id, self.defaults.experiment, tags=tags)
        if self.own_facts is None:  # no other thread was faster: nothing is called in between
            self.own_facts = made
        return self.own_facts

    def now_ns(self) -> int:
        """Nanoseconds since 1970, by the wall clock at the trace's start."""
        return self.clock_ns + perf_counter_ns()

    def opened(self, span: OpenedSpan) -> None:  # noqa: ARG002  for those who keep the spans
        """A span has been started. Where `keeps_spans` is False, counting alone does the same."""
        self.spans += 1

    def attach(self, attachment: Attachment) -> None:
        """Take bytes that a span refers to; they go with the spans that are handed over next."""
        if self.attachments is None:
            self.attachments = []
        self.attachments.append(attachment)
        self.pending_bytes += attachment_size(attachment)

    def add(self, span: SentSpan, size: int, *, error: bool) -> None:
        """Take a span that has ended and is not the local root, of about `size` bytes."""
        if self.forks != PROCESS.forks:
            self._hand_over_from_fork(span, size, error=error)
            return
        self.pending.append(span)
        self.pending_bytes += size
        if error:
            self.failed = True
        self.look()

    def look(self) -> None:
        """A span has ended: do what is due."""
        if (
            self.root is not None
            or self.pending_bytes > self.fragment_bytes
            or self.now_ns() > self.due_ns
        ):
            self.hand_over_what_has_ended()

    def finish(self, root: SentSpan, size: int, *, error: bool, duration_ns: int) -> None:
        """Take the local root, which has ended, and hand over all there is, with the end marker."""
        if PROCESS.finish_above < 0:
            self.sent_facts = PROCESS.finisher.part(self.facts)
        if error:
            self.failed = True
        self.root_duration_ns = duration_ns
        size += PARCEL_OVERHEAD_BYTES + self.pending_bytes
        for facts in (self.own_facts, self.sent_facts):
            if facts is not None:
                size += part_size(facts)
        self.size = size
        self.root = root
        self.spans_at_end = self.spans
        self.defaults.outlet.put(self)

    def parcel(self) -> Parcel:
        """What is handed over at the end: made by the sender, whose time nobody waits for.

        Spans that ended after the root, and before this, are in it or in a parcel of their own.
        """
        spans, attachments = _taken(self.pending), _taken(self.attachments)
        root, duration_ns = self.root, self.root_duration_ns
        if root is not None:
            spans.append(root)
            self.root = _HANDED_OVER
        if isinstance(root, EndedSpan):
            duration_ns = root.end_ns - root.start_ns
        part = (self.sent_facts or self.facts) if self.changed or not self.remote else None
        if part is not None and self.whole is not None and self.whole.torn:
            part.metadata[INCOMPLETE] = _DROPPED
        duration_ns = 0 if self.remote else max(duration_ns, 0)
        end = End(self.spans_at_end, self.contexts_out, self.remote)
        return self._parcel_of(spans, attachments, self.size, part, end, duration_ns)

    def hand_over_what_has_ended(self) -> None:
        """Hand over the spans that have ended, though the trace goes on, or after its end."""
        if self.forks != PROCESS.forks:
            return
        spans = _taken(self.pending)
        if not spans:
            return
        attachments = _taken(self.attachments)
        size = PARCEL_OVERHEAD_BYTES + self.pending_bytes
        if self.ended:
            size = PARCEL_OVERHEAD_BYTES + sum(map(attachment_size, attachments))
            size += sum(len(one) if isinstance(one, bytes) else one.size for one in spans)
            size += len((self.sent_facts or self.facts).metadata.get(_SESSION, ""))
        self.pending_bytes = 0
        self.due_ns = self.now_ns() + self.defaults.fragment_age_ns
        whole = Whole()
        if self.whole is None and not self.ended:  # nor was another thread faster
            self.whole = whole
        part = None if self.ended else self._sent_part()
        if part is not None:
            size += part_size(part)
        self.defaults.outlet.put(self._parcel_of(spans, attachments, size, part, None, 0))

    def _part(self) -> TracePart | None:
        """The trace's own part as it is now; of another service's trace only what was set here."""
        if self.remote and not self.changed:
            return None
        facts = self.facts
        return replace(facts, tags=facts.tags.copy(), metadata=facts.metadata.copy())

    def _sent_part(self) -> TracePart | None:
        """The same as it may be sent."""
        part = self._part()
        return part if part is None or PROCESS.finish_above >= 0 else PROCESS.finisher.part(part)

    def _parcel_of(
        self,
        spans: list[SentSpan],
        attachments: list[Attachment],
        size: int,
        part: TracePart | None,
        end: End | None,
        duration_ns: int,
    ) -> Parcel:
        failed, self.failed = self.failed, False
        session = (self.sent_facts or part or self.facts).metadata.get(_SESSION)
        return Parcel(
            self.trace_id,
            size,
            spans,
            part,
            end,
            failed,
            duration_ns,
            session,
            None,
            self.remote,
            attachments,
            self.whole,
        )

    def _hand_over_from_fork(self, span: SentSpan, size: int, *, error: bool) -> None:
        """A span of a forked process: what waits here is the parent's, and so is the end marker."""
        target = outlets.current() or self.defaults.outlet
        target.put(Parcel(self.trace_id, size + PARCEL_OVERHEAD_BYTES, [span], error=error))


def lose(trace: LiveTrace, *, root: bool) -> None:
    """A span has ended and could not be handed over. With the local root the trace is lost: it is
    counted as dropped, whatever of it waits or comes later. Without another one it says that it is
    incomplete."""
    if trace.root is not None or trace.forks != PROCESS.forks:
        return  # the outlet has the trace, or another process
    if not root:
        trace.facts.metadata[INCOMPLETE] = _DROPPED
        trace.changed = True
        return
    trace.root = _HANDED_OVER
    if trace.whole is None:
        trace.whole = Whole()
    trace.whole.lose(DropReason.BROKEN)
    _taken(trace.pending)
    _taken(trace.attachments)
    parcel = Parcel(trace.trace_id, NO_ROOM_BYTES, end=End(0), whole=trace.whole, broken=True)
    trace.defaults.outlet.put(parcel)
    trace.look()


def _taken(waiting: list[T] | None) -> list[T]:
    """All that waits, in its order, and no more in the list. Safe beside others who append or take."""
    taken: list[T] = []
    if waiting is None:
        return taken
    take = waiting.pop
    while waiting:
        try:
            taken.append(take())
        except IndexError:  # another thread was faster
            break
    taken.reverse()
    return taken
