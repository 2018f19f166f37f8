"""A Sink in memory, with faults on request."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from spanferry_schemas import Assessment, Attachment, Span, TracePart
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.errors import (
    PartlyRefusedError,
    PoisonError,
    TraceNotFoundError,
    TransientError,
)
from spanferry_worker.stages.parts import merge_parts
from spanferry_worker.stages.sample import ASKED_MARKS
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["MemorySink", "StoredTrace"]


class StoredTrace(Struct):
    """A trace as it lies in the store."""

    trace: TracePart
    spans: dict[bytes, Span]
    assessments: dict[str, Assessment]
    complete: bool
    reasons: list[FinishReason]
    writes: int = 0
    attachments: dict[str, Attachment] = {}


class MemorySink:
    """Merges by trace id, span id and assessment id, as the port demands; a span that was cut gives way to
    the whole one.

    Faults, to be set by the test: `transient_failures` (that many calls fail, nothing is stored),
    `after_failures` (that many calls store everything and fail then, as a lost answer does), `poison`
    (traces for which it is true are refused; with `names_refused` by name, and all others are stored),
    `retry_after_s` (what a failing call asks for), `delay_s` (every call takes so long), `blocked` (while
    this event is clear no call ends), `answering` (the same for `marks`).

    `particular`: as MLflow it takes feedback and tags only for a trace that it has, else it raises
    TraceNotFoundError with the rest of the batch before it stored. `beside`: another worker's connection
    to the same store.
    """

    def __init__(
        self,
        *,
        concurrency: int = 1,
        particular: bool = False,
        beside: "MemorySink | None" = None,
    ) -> None:
        self._concurrency = concurrency
        self._particular = particular
        self._under_way: set[bytes | None] = set()
        self.stored: dict[bytes, StoredTrace] = {} if beside is None else beside.stored
        self.orphans: dict[str, Assessment] = {} if beside is None else beside.orphans
        """Assessments by client request id."""
        self.calls = 0
        self.transient_failures = 0
        self.after_failures = 0
        self.open_failures = 0
        self.poison: Callable[[AssembledTrace], bool] = lambda _: False
        self.names_refused = False
        self.retry_after_s: float | None = None
        self.delay_s = 0.0
        self.asked: list[bytes] = []
        """The ids of `marks`, in order."""
        self.answering = asyncio.Event()
        self.answering.set()
        self.blocked = asyncio.Event()
        self.blocked.set()
        self.is_open = False

    @property
    def concurrency(self) -> int:
        """How many calls may run at once."""
        return self._concurrency

    async def open(self) -> None:
        """Raises TransientError as often as `open_failures` says."""
        if self.open_failures:
            self.open_failures -= 1
            raise TransientError("the store is away")
        self.is_open = True

    async def close(self) -> None:
        """Nothing to release; what is stored stays readable."""
        self.is_open = False

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        """Store the batch, or fail as asked. Asserts what the port promises to a sink."""
        ids = [trace.trace_id for trace in batch if trace.trace_id is not None]
        assert self.is_open, "written to before it was opened"
        assert len(ids) == len(set(ids)), "a trace id twice in one batch"
        assert not self._under_way.intersection(ids), "a trace id in two batches at once"
        self._under_way.update(ids)
        try:
            await self._write(batch)
        finally:
            self._under_way.difference_update(ids)

    async def marks(self, trace_ids: Sequence[bytes]) -> Mapping[bytes, Mapping[str, str]]:
        """See Sink. Fails as `transient_failures` says; waits while `answering` is clear."""
        self.asked += trace_ids
        await asyncio.sleep(0)
        await self.answering.wait()
        if self.transient_failures:
            self.transient_failures -= 1
            raise TransientError("the store is away")
        return {one: _marks(self.stored[one]) for one in trace_ids if one in self.stored}

    async def marks_of_request(
        self, assessment: Assessment
    ) -> tuple[bytes, Mapping[str, str]] | None:
        """See Sink."""
        await asyncio.sleep(0)
        await self.answering.wait()
        request = assessment.client_request_id
        found = {i: one for i, one in self.stored.items() if one.trace.client_request_id == request}
        if any(assessment.assessment_id in one.assessments for one in found.values()):
            return None
        return next(((i, _marks(one)) for i, one in reversed(found.items())), None)

    async def _write(self, batch: Sequence[AssembledTrace]) -> None:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        await self.blocked.wait()
        if self.transient_failures:
            self.transient_failures -= 1
            raise TransientError("the store is away", retry_after_s=self.retry_after_s)
        refused = {
            place: PoisonError("the store refuses this trace")
            for place, trace in enumerate(batch)
            if self.poison(trace)
        }
        if refused and not (self.names_refused and len(batch) > 1):
            raise PoisonError("the store refuses a trace of this batch")
        for place, trace in enumerate(batch):
            if place not in refused:
                self._store(trace)
        if refused:
            raise PartlyRefusedError(refused)
        if self.after_failures:
            self.after_failures -= 1
            raise TransientError("the answer was lost")

    def _store(self, trace: AssembledTrace) -> None:
        if trace.trace_id is None:
            self._store_by_request(trace)
            return
        stored = self.stored.get(trace.trace_id)
        if stored is None:
            if self._particular and not trace.spans:
                raise TraceNotFoundError(f"no trace {trace.trace_id.hex()}")
            stored = StoredTrace(TracePart(), {}, {}, complete=False, reasons=[])
            self.stored[trace.trace_id] = stored
        stored.trace = merge_parts(stored.trace, trace.trace)
        for span in trace.spans:
            known = stored.spans.get(span.span_id)
            if known is None or not known.end_ns or _is_cut(known) > _is_cut(span):
                stored.spans[span.span_id] = span
        for each in trace.assessments:
            stored.assessments.setdefault(each.assessment_id, each)
        stored.attachments |= {each.attachment_id: each for each in trace.attachments}
        stored.complete = stored.complete or trace.complete
        stored.reasons.append(trace.reason)
        stored.writes += 1

    def _store_by_request(self, trace: AssembledTrace) -> None:
        if not self._particular:
            self.orphans |= {each.assessment_id: each for each in trace.assessments}
            return
        for each in trace.assessments:
            owners = [
                stored
                for stored in self.stored.values()
                if stored.trace.client_request_id == each.client_request_id
            ]
            if not owners:
                raise TraceNotFoundError(f"no trace of request {each.client_request_id}")
            if not any(each.assessment_id in owner.assessments for owner in owners):
                owners[-1].assessments[each.assessment_id] = each


def _marks(stored: StoredTrace) -> dict[str, str]:
    metadata = stored.trace.metadata
    return {key: metadata[key] for key in ASKED_MARKS if key in metadata}


def _is_cut(span: Span) -> bool:
    return CUT_ATTRIBUTE in span.attributes
