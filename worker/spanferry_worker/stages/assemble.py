"""assemble: fragments and feedback become traces. Time comes in; nothing is waited for here."""

import itertools
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from spanferry_schemas import Assessment, Fragment, Span, TracePart
from spanferry_worker.stages.decode import Decoded
from spanferry_worker.stages.footprint import event_bytes
from spanferry_worker.stages.giants import GiantPolicy, Giants, marked
from spanferry_worker.stages.open_trace import OpenTrace, Tally
from spanferry_worker.stages.parts import merge_parts, without_own
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["AssemblePolicy", "Assembler"]


class AssemblePolicy(GiantPolicy, frozen=True, kw_only=True):
    """How long a trace may stay open. Times are the partition's (see PartitionClock)."""

    idle_s: float = 30.0
    """An incomplete trace is written when nothing came for this long."""
    age_s: float = 300.0
    """... or when it has been open for this long; its later spans are added."""
    late_grace_s: float = 1.0
    """What comes after its trace was written is collected this long, then merged."""
    feedback_grace_s: float = 5.0
    """Feedback or tags whose trace is not open here wait this long for it."""
    bytes_max: int = 128 * 1024 * 1024
    """What all open traces of the process may take in memory; above it those that nothing has come for
    are folded, then payloads of giants are cut, then the oldest traces are written early."""
    released_traces_max: int = 50_000
    """Written traces remembered in the process, so that late spans need not wait `idle_s`; its
    partitions share them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.idle_s, self.late_grace_s, self.feedback_grace_s) <= 0:
            raise ValueError("idle_s, late_grace_s and feedback_grace_s must be above 0")
        if self.age_s < self.idle_s:
            raise ValueError("age_s must be at least idle_s")
        if self.bytes_max < 1 or self.released_traces_max < 0:
            raise ValueError("bytes_max must be at least 1, released_traces_max at least 0")


_Key = bytes | str
_Shelf = OrderedDict[_Key, OpenTrace]


class Assembler:
    """The open traces of one partition; a new one for every assignment.

    Spans in are spans out plus spans held plus repeats. A trace comes out once by COMPLETE, IDLE,
    AGE, MEMORY or DRAIN; whatever follows for it comes out as LATE.
    """

    def __init__(self, policy: AssemblePolicy) -> None:
        self._policy = policy
        self._idle_ms = int(policy.idle_s * 1000)
        self._age_ms = int(policy.age_s * 1000)
        self._late_ms = int(policy.late_grace_s * 1000)
        self._feedback_ms = int(policy.feedback_grace_s * 1000)
        # By opening; the two others hold the same traces by their last record, those before that were
        # folded, or are not worth it.
        self._open: _Shelf = OrderedDict()
        self._resting: _Shelf = OrderedDict()
        self._idle: _Shelf = OrderedDict()
        self._late: _Shelf = OrderedDict()
        self._alone: _Shelf = OrderedDict()
        self._released: OrderedDict[bytes, Tally] = OrderedDict()
        self._giants: Giants[OpenTrace] = Giants(policy)
        self.released_max = policy.released_traces_max
        """How many written traces this partition may remember."""
        self.held_bytes = 0
        """What all that is held here takes in memory."""
        self.spans_repeated = 0

    def add(self, decoded: Decoded, now_ms: int) -> AssembledTrace | None:
        """Take an event; the trace if it is complete with it. `now_ms`: the partition's time."""
        event = decoded.event
        if isinstance(event, Assessment):
            self._add_assessment(event, decoded, now_ms)
            return None
        trace_id = event.trace_id
        shelf = self._open
        entry = shelf.get(trace_id)
        if entry is None:
            beside = not event.spans and event.end is None
            shelf, entry = self._shelve(trace_id, now_ms, beside=beside)
        elif entry.folded:
            self.held_bytes += entry.unfold()
        size = decoded.size
        if entry.cut:
            event, freed = self._giants.cut_on_arrival(event)
            size -= freed
        self.spans_repeated += _merge(entry, event, decoded)
        self.held_bytes += entry.hold(event_bytes(event, size))
        if entry.tally.completed():
            late = shelf is self._late
            return self._release(entry, FinishReason.LATE if late else FinishReason.COMPLETE)
        if shelf is self._open:
            entry.seen_ms = now_ms
            if self._resting.pop(trace_id, None) is not None:
                self._idle[trace_id] = entry
            else:
                self._idle.move_to_end(trace_id)
            self._giants.saw(trace_id, entry)
        return None

    def _shelve(self, trace_id: bytes, now_ms: int, *, beside: bool) -> tuple[_Shelf, OpenTrace]:
        """The entry for a trace that is not open: late, or new with the feedback that waited.

        `beside`: without spans, like tags that are set on a trace of long ago. It waits as feedback
        does, so that nobody waits for spans that will not come.
        """
        entry = self._late.get(trace_id)
        if entry is not None:
            return self._late, entry
        tally = self._released.get(trace_id)
        if tally is not None:
            entry = self._late[trace_id] = OpenTrace(trace_id, now_ms, tally)
            return self._late, entry
        if beside:
            entry = self._alone.get(trace_id)
            if entry is None:
                entry = self._alone[trace_id] = OpenTrace(trace_id, now_ms, Tally())
            return self._alone, entry
        entry = self._alone.pop(trace_id, None)
        if entry is None:
            entry = OpenTrace(trace_id, now_ms, Tally())
        entry.first_ms = now_ms
        self._open[trace_id] = self._idle[trace_id] = entry
        return self._open, entry

    def _add_assessment(self, event: Assessment, decoded: Decoded, now_ms: int) -> None:
        key: _Key = event.trace_id or event.client_request_id or event.assessment_id
        entry = self._open.get(key) or self._late.get(key) or self._alone.get(key)
        if entry is None:
            tally = self._released.get(key) if isinstance(key, bytes) else None
            entry = OpenTrace(event.trace_id, now_ms, tally or Tally())
            (self._alone if tally is None else self._late)[key] = entry
        was_folded = bool(entry.folded)
        if was_folded:
            self.held_bytes += entry.unfold()
        entry.assessments[event.assessment_id] = event
        entry.positions += decoded.positions
        entry.size += decoded.size
        self.held_bytes += entry.hold(event_bytes(event, decoded.size))
        if was_folded:
            self.held_bytes -= entry.fold()

    def expire(self, now_ms: int, open_max: int = sys.maxsize) -> list[AssembledTrace]:
        """What has waited long enough, by the partition's time. Call it a few times a second.

        Of open traces no more than `open_max`: the others come out by a later call.
        """
        late = [
            *self._release_due(self._late, now_ms - self._late_ms, FinishReason.LATE),
            *self._release_due(self._alone, now_ms - self._feedback_ms, FinishReason.LATE),
        ]
        due = itertools.chain(
            self._release_due(self._open, now_ms - self._age_ms, FinishReason.AGE),
            self._release_idle(self._resting, now_ms - self._idle_ms),
            self._release_idle(self._idle, now_ms - self._idle_ms),
        )
        return [*late, *itertools.islice(due, open_max)]

    def _release_idle(self, shelf: _Shelf, since_ms: int) -> Iterator[AssembledTrace]:
        """Release what nothing has come for since a moment."""
        while shelf:
            entry = next(iter(shelf.values()))
            if entry.seen_ms > since_ms:
                break
            yield self._release(entry, FinishReason.IDLE)

    def _release_due(
        self, shelf: _Shelf, since_ms: int, reason: FinishReason
    ) -> Iterator[AssembledTrace]:
        """Release what was opened at or before a moment, oldest first."""
        while shelf:
            entry = next(iter(shelf.values()))
            if entry.first_ms > since_ms:
                break
            yield self._release(entry, reason)

    @property
    def largest_giant_bytes(self) -> int:
        """What the largest trace takes that `cut_giant` can make smaller; 0 where there is none."""
        return self._giants.largest_bytes

    def fold_idlest(self) -> int | None:
        """Keep the trace as bytes that nothing has come for for longest; the bytes that this freed.

        None where there is none that was not looked at since something came for it.
        """
        if not self._idle:
            return None
        trace_id, entry = self._idle.popitem(last=False)
        self._resting[trace_id] = entry
        freed = 0 if self._giants.is_giant(entry) else entry.fold()
        self.held_bytes -= freed
        return freed

    def cut_giant(self) -> int | None:
        """Cut the payloads of the largest giant, which stays open; the bytes that it freed.

        None where there is no giant that was not cut before.
        """
        freed = self._giants.cut_largest()
        self.held_bytes -= freed or 0
        return freed

    def evict(self) -> AssembledTrace | None:
        """The trace that has been open for longest, with reason MEMORY; None where none is held."""
        for shelf, reason in (
            (self._open, FinishReason.MEMORY),
            (self._late, FinishReason.LATE),
            (self._alone, FinishReason.LATE),
        ):
            if shelf:
                return self._release(next(iter(shelf.values())), reason)
        return None

    def drain(self) -> Iterator[AssembledTrace]:
        """Everything that is held, one by one, with reason DRAIN: the worker stops and leaves nothing."""
        entries = [*self._open.values(), *self._late.values(), *self._alone.values()]
        for entry in entries:
            yield self._release(entry, FinishReason.DRAIN)

    def _release(self, entry: OpenTrace, reason: FinishReason) -> AssembledTrace:
        """Take an entry off its shelf and remember it, so that what follows is known to be late."""
        if entry.folded:
            self.held_bytes += entry.unfold()
        trace_id = entry.trace_id
        if trace_id is None:
            self._alone.pop(_client_key(entry))
        elif self._open.pop(trace_id, None) is not None:
            if self._resting.pop(trace_id, None) is None:
                del self._idle[trace_id]
            self._giants.gone(trace_id)
            self._remember(trace_id, entry.tally)
        elif self._late.pop(trace_id, None) is not None:
            self._remember(trace_id, entry.tally)
        else:
            # Feedback alone says nothing about the spans: these may still come and be whole.
            del self._alone[trace_id]
        self.held_bytes -= entry.held_bytes
        part = entry.part or TracePart()
        return AssembledTrace(
            trace_id=trace_id,
            trace=marked(part, entry.spans.values()) if entry.cut else part,
            spans=list(entry.spans.values()),
            assessments=list(entry.assessments.values()),
            reason=reason,
            complete=entry.tally.whole,
            size=entry.size,
            positions=entry.positions,
            attachments=list(entry.attachments.values()),
            held_bytes=entry.held_bytes,
        )

    def _remember(self, trace_id: bytes, tally: Tally) -> None:
        self._released[trace_id] = tally
        self._released.move_to_end(trace_id)
        while len(self._released) > self.released_max:
            self._released.popitem(last=False)

    @property
    def held_traces(self) -> int:
        """How many traces are open or wait as late additions."""
        return len(self._open) + len(self._late) + len(self._alone)


def _client_key(entry: OpenTrace) -> _Key:
    first = next(iter(entry.assessments.values()))
    return first.client_request_id or first.assessment_id


def _merge(entry: OpenTrace, event: Fragment, decoded: Decoded) -> int:
    """Put a fragment into its trace; how many of its spans were repeats."""
    entry.positions += decoded.positions
    entry.size += decoded.size
    spans = entry.spans
    repeated = 0
    if event.end is not None or event.trace is not None:
        key = _repeat_key(event, decoded.origin)
        if key is None or key not in entry.keys:
            if key is not None:
                entry.keys.add(key)
            if event.end is not None:
                entry.tally.count(event.end)
            if event.trace is not None:
                _add_part(entry, event.trace, event.spans)
    for span in event.spans:
        known = spans.get(span.span_id)
        if known is not None:
            repeated += 1
        if known is None or (known.end_ns == 0 and span.end_ns != 0):
            spans[span.span_id] = span
    entry.tally.spans += len(event.spans) - repeated
    for attachment in event.attachments:
        entry.attachments[attachment.attachment_id] = attachment
    return repeated


def _add_part(entry: OpenTrace, part: TracePart, spans: Sequence[Span]) -> None:
    """A later part over an earlier one; but what each process says for itself, its experiment above
    all, is what the root's process says, whichever comes first."""
    known = entry.part
    if known is None:
        entry.part = part
        return
    if not any(span.parent_id is None for span in spans):
        part = without_own(part, known)
    entry.part = merge_parts(known, part)


def _repeat_key(event: Fragment, origin: bytes | None) -> int | None:
    """What a resend of this fragment shares with it and no other fragment does: a hash of 64 bits.

    The spans themselves, because a resend may come under another producer's number; only where
    there are none, the number. None: not to be told.
    """
    if event.spans:
        return hash((event.end, *((span.span_id, span.end_ns) for span in event.spans)))
    return None if origin is None else hash((event.end, origin))
