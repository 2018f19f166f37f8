"""What is done to spans and traces that have ended, before they are handed over: secrets are replaced,
payloads that are too large are cut. In the thread that hands over."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from spanferry import values
from spanferry.ended_span import EndedSpan, names_size
from spanferry.giants import GIANT_BYTES, give_way, remember
from spanferry.log import say_once
from spanferry.process import PROCESS
from spanferry.settings import Settings
from spanferry.stopping import let_through
from spanferry_schemas import Assessment, Span, SpanEvent, SpanLink, TracePart, mlflow_keys
from spanferry_schemas.cutting import CUT_ATTRIBUTE, cut_json, cut_object, cut_sizes

if TYPE_CHECKING:
    from spanferry.redacting.redactor import Redactor

__all__ = [
    "ATTACHMENT_MARK",
    "SHORTENED",
    "SHORTENINGS",
    "Finisher",
    "FinishingCounts",
    "finisher_of",
    "may_attach",
    "payload_limit",
    "shorten",
]

ATTACHMENT_MARK: Final = "[REDACTED:attachment]"
"""In the place of an attachment into which nobody can look."""

SHORTENED: Final = "spanferry.shortened"
"""Metadata of a trace of which the budget guard has had less recorded."""

_FOR_THE_BUDGET: Final = "budget"

_SHORTENED_VALUE: Final = msgspec.json.encode(values.SHORTENED)
_SHORTENED_NOTE: Final = values.SHORTENED.encode()


class Shortening(NamedTuple):
    """What the budget guard has recorded less of."""

    parts_max: int
    """Parts of one value that are unfolded one by one."""
    redacted_bytes_max: int
    """Larger values are withheld instead of being looked into for secrets."""


SHORTENINGS: Final = (
    Shortening(1_000, 64_000),
    Shortening(100, 16_000),
    Shortening(10, 4_000),
    Shortening(0, 1_000),
)
"""One after the other, until recording is within its budget."""

_NEVER: Final = sys.maxsize
_ALWAYS: Final = -1

_IDENTITIES: Final = frozenset({mlflow_keys.METADATA_SESSION, mlflow_keys.METADATA_USER})
_KEPT_WHOLE: Final = frozenset({mlflow_keys.SPAN_TOKEN_USAGE, CUT_ATTRIBUTE})
_INPUTS: Final = mlflow_keys.SPAN_INPUTS
_OUTPUTS: Final = mlflow_keys.SPAN_OUTPUTS


class FinishingCounts(Struct, frozen=True):
    """Since `enable()`, or since the fork. Where threads count at once one may be missed."""

    redacted: int = 0
    """Values of which something was replaced."""
    withheld: int = 0
    """Values whose redaction failed: they were not sent."""
    truncated: int = 0
    """Payloads that were cut."""
    shortened: int = 0
    """Traces of which the budget guard has had less recorded."""


class Marked(Protocol):
    """A trace to which something can be added that holds for all of it."""

    ended: bool
    changed: bool

    @property
    def facts(self) -> TracePart: ...


class Finisher:
    """For one `enable()`. No method raises; all are safe in any thread."""

    def __init__(self, redactor: "Redactor | None", payload_bytes_max: int) -> None:
        self.redactor: Final = redactor
        self._payload_bytes_max = payload_bytes_max
        self._shortening: Shortening | None = None
        self._truncated = 0
        self._withheld = 0
        self._shortened = 0

    @property
    def looks_above(self) -> int:
        """Spans with more bytes than that are to be shown to `span`: those that it changes, and giants."""
        return min(self.changes_above, GIANT_BYTES)

    @property
    def changes_above(self) -> int:
        """Spans with no more bytes than that stay as they are: with redaction, none; while less is
        recorded those that have none."""
        if self.redactor is not None:
            return _ALWAYS
        return self._payload_bytes_max if self._shortening is None else 0

    def shorten(self, shortening: Shortening | None) -> None:
        """Record less of what is slow to record; None: as configured."""
        self._shortening = shortening

    @property
    def counts(self) -> FinishingCounts:
        """What was done so far."""
        redactor = self.redactor
        redacted, withheld = (0, 0) if redactor is None else redactor.counts
        return FinishingCounts(
            redacted, withheld + self._withheld, self._truncated, self._shortened
        )

    def forget(self) -> None:
        """In a forked process: what was counted is the parent's."""
        self._truncated = self._withheld = self._shortened = 0
        if self.redactor is not None:
            self.redactor.forget()

    def span(self, span: EndedSpan, size: int, trace: "Marked | None" = None) -> int:
        """Finish a span that nobody else has yet; answers its size afterwards."""
        if size > GIANT_BYTES:
            remember(span.name)
            give_way()
        return self._change(span, size, trace) if size > self.changes_above else size

    def _change(self, span: EndedSpan, size: int, trace: "Marked | None") -> int:
        try:
            return self._finish(span, size, trace)
        except BaseException as error:  # noqa: BLE001  the span stays, its content does not
            let_through(error)
            say_once("finishing", "a span could not be looked into: %s", type(error).__name__)
            span.inputs = span.outputs = span.attributes = None
            span.events, span.links, span.message = (), (), ""
            span.name, span.span_type = "[REDACTED:withheld]", ""
            self._withheld += 1
            return size

    def _finish(self, span: EndedSpan, size: int, trace: "Marked | None") -> int:
        before = _bytes_of(span)
        redactor = self.redactor
        if self._shortening is not None:
            self._note_shortened(span, self._shortening, trace)
        if redactor is not None:
            PROCESS.slow_values = True
            if span.inputs is not None:
                span.inputs = redactor.json(span.inputs, _INPUTS, "inputs")
            if span.outputs is not None:
                span.outputs = redactor.json(span.outputs, _OUTPUTS, "outputs")
            if span.attributes is not None:
                span.attributes = _redacted(redactor, span.attributes)
            span.name = redactor.name(values.text(span.name))
            if span.span_type is not None:
                span.span_type = redactor.name(values.text(span.span_type))
            if span.message:
                span.message = redactor.text(span.message, "", "status")
            span.events = _redacted_events(redactor, span.events)
            span.links = _redacted_links(redactor, span.links)
        after = _bytes_of(span)
        if after > self._payload_bytes_max:
            self._cut(span)
            after = _bytes_of(span)
        return size + after - before

    def wire_span(self, span: Span) -> Span:
        """The same for a span of MLflow's own making."""
        attributes = span.attributes.copy()
        inputs, outputs = attributes.pop(_INPUTS, None), attributes.pop(_OUTPUTS, None)
        ended = EndedSpan(
            span.span_id, span.parent_id, span.name, span.span_type, span.start_ns, span.end_ns,
            span.status, span.status_message, inputs, outputs, attributes, span.events, span.links,
        )  # fmt: skip
        self._change(ended, 0, None)
        finished = ended.attributes or {}
        if ended.inputs is not None:
            finished[_INPUTS] = ended.inputs
        if ended.outputs is not None:
            finished[_OUTPUTS] = ended.outputs
        return replace(
            span,
            name=ended.name,
            span_type=ended.span_type,
            status_message=ended.message,
            attributes=finished,
            events=list(ended.events),
            links=list(ended.links),
        )

    def texts(self, texts: Mapping[str, str]) -> Mapping[str, str]:
        """What goes to the metadata of every trace."""
        return texts if self.redactor is None else self.redactor.texts(texts, "metadata")

    def part(self, part: TracePart) -> TracePart:
        """A trace's own part as it may be sent: a copy that nobody else changes."""
        redactor = self.redactor
        if redactor is None:
            return part
        given = part.metadata.copy()  # other threads may be changing it
        named = {key: given[key] for key in _IDENTITIES if key in given}
        metadata = redactor.texts(given, "metadata")
        request_id = part.client_request_id
        if not redactor.identities:
            metadata.update(named)
        elif request_id is not None:
            request_id = redactor.text(request_id, "client_request_id")
        return replace(
            part,
            client_request_id=request_id,
            request_preview=_redacted_text(redactor, part.request_preview, "request_preview"),
            response_preview=_redacted_text(redactor, part.response_preview, "response_preview"),
            tags=redactor.texts(part.tags.copy(), "tag"),
            metadata=metadata,
            model_params=redactor.texts(part.model_params.copy(), "model_param"),
        )

    def assessment(self, given: Assessment) -> Assessment:
        """Feedback or an expectation as it may be sent."""
        redactor = self.redactor
        if redactor is None:
            return given
        error = given.error
        if error is not None:
            code, *texts = error
            message, stack = (_redacted_text(redactor, one, "error") for one in texts)
            error = (redactor.text(code, ""), message, stack)
        request_id, source_id = given.client_request_id, given.source_id
        if redactor.identities:
            request_id = _redacted_text(redactor, request_id, "client_request_id")
            source_id = redactor.text(source_id, "source_id")
        return replace(
            given,
            name=redactor.name(given.name),
            value=redactor.json(given.value, given.name, f"assessment {given.name}"),
            rationale=_redacted_text(redactor, given.rationale, "rationale"),
            metadata=redactor.texts(given.metadata, "assessment_metadata"),
            error=error,
            client_request_id=request_id,
            source_id=source_id,
        )

    def _note_shortened(
        self, span: EndedSpan, shortening: Shortening, trace: Marked | None
    ) -> None:
        """Say on the trace that less of it is recorded, where that is so."""
        shortened = self.redactor is not None and _replace_large(
            span, shortening.redacted_bytes_max, lambda _: _SHORTENED_VALUE, lambda _: b"{}"
        )
        recorded = (span.inputs, span.outputs, *(span.attributes or {}).values())
        if not shortened and not any(value and _SHORTENED_NOTE in value for value in recorded):
            return
        if trace is not None and not trace.ended and SHORTENED not in trace.facts.metadata:
            self._shortened += 1
            trace.facts.metadata[SHORTENED] = _FOR_THE_BUDGET
            trace.changed = True

    def _cut(self, span: EndedSpan) -> None:
        """Cut what is above the limit to previews, and leave a mark with what there was."""
        limit = self._payload_bytes_max
        self._truncated += _replace_large(
            span,
            limit,
            lambda value: cut_json(value, limit),
            lambda attributes: cut_object(attributes, limit),
        )


def may_attach() -> bool:
    """Whether an attachment may be sent."""
    redactor = None if PROCESS.finisher is None else PROCESS.finisher.redactor
    return redactor is None or redactor.keeps_attachments


def finisher_of(settings: Settings) -> Finisher:
    """What the options ask for."""
    limit = payload_limit(settings) or _NEVER
    if settings.redact is None:
        return Finisher(None, limit)
    from spanferry.redacting.redactor import Redactor  # noqa: PLC0415  for those who redact

    return Finisher(Redactor(settings.redact), limit)


def payload_limit(settings: Settings) -> int:
    """Bytes of a payload above which it is cut; 0: never."""
    limit = settings.payload_bytes_max
    return settings.buffer_bytes // 2 if limit is None else limit


def shorten(level: int) -> None:
    """Have less recorded of values that are slow to record: one of SHORTENINGS, from 1; 0: all."""
    shortening = SHORTENINGS[level - 1] if level else None
    values.UNFOLDING.limit(None if shortening is None else shortening.parts_max)
    finisher = PROCESS.finisher
    if finisher is not None:
        finisher.shorten(shortening)
        PROCESS.finish_above = finisher.looks_above


def _replace_large(
    span: EndedSpan,
    bytes_max: int,
    short: Callable[[bytes], bytes],
    short_attributes: Callable[[bytes], bytes],
) -> int:
    """Replace what is above the limit, events' attributes too, and leave a mark with what there was;
    how many there were."""
    cut: dict[str, int] = {}
    if span.inputs is not None and len(span.inputs) > bytes_max:
        cut[_INPUTS], span.inputs = len(span.inputs), short(span.inputs)
    if span.outputs is not None and len(span.outputs) > bytes_max:
        cut[_OUTPUTS], span.outputs = len(span.outputs), short(span.outputs)
    attributes = {} if span.attributes is None else span.attributes.copy()
    for key, value in attributes.items():
        if len(value) > bytes_max and key not in _KEPT_WHOLE:
            cut[key], attributes[key] = len(value), short(value)
    if any(len(event.attributes) > bytes_max for event in span.events):
        cut["events"] = sum(len(one.name) + len(one.attributes) for one in span.events)
        span.events = [
            event
            if len(event.attributes) <= bytes_max
            else SpanEvent(event.name, event.time_ns, short_attributes(event.attributes))
            for event in span.events
        ]
    if cut:
        earlier = cut_sizes(
            attributes.get(CUT_ATTRIBUTE, b"{}")
        )  # of a stream that was not kept whole
        attributes[CUT_ATTRIBUTE] = msgspec.json.encode({**cut, **earlier})
        span.attributes = attributes
    return len(cut)


def _bytes_of(span: EndedSpan) -> int:
    """What may become more or less."""
    size = names_size(span.name, span.span_type) + len(span.message)
    size += len(span.inputs or b"") + len(span.outputs or b"")
    if span.attributes:
        size += sum(map(len, span.attributes.copy().values()))
    return size + sum(len(event.attributes) + len(event.name) for event in span.events)


def _redacted(redactor: "Redactor", attributes: dict[str, bytes]) -> dict[str, bytes]:
    return {
        redactor.key(key): redactor.json(value, key) for key, value in attributes.copy().items()
    }


def _redacted_text(redactor: "Redactor", text: str | None, key: str) -> str | None:
    return None if text is None else redactor.text(text, key)


def _redacted_events(redactor: "Redactor", events: Sequence[SpanEvent]) -> Sequence[SpanEvent]:
    return [
        SpanEvent(
            redactor.name(event.name),
            event.time_ns,
            redactor.object(event.attributes, f"event {event.name}"),
        )
        for event in events
    ]


def _redacted_links(redactor: "Redactor", links: Sequence[SpanLink]) -> Sequence[SpanLink]:
    return [
        SpanLink(link.trace_id, link.span_id, redactor.object(link.attributes, "link"))
        for link in links
    ]
