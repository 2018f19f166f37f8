"""For tests of apps: what would have been sent to Kafka, readable, without any Kafka.

with spanferry.testing.capture() as captured:
    answer("why?")
(trace,) = captured.traces
assert trace.root.inputs == {"question": "why?"}
"""

from types import TracebackType
from typing import Any, Final, Self

from msgspec.structs import replace

from spanferry import bridge, values
from spanferry import outlet as outlets
from spanferry.parcel import Outlet, Parcel, Waiting, encoded
from spanferry.settings import Settings
from spanferry.span_view import SpanView
from spanferry_schemas import (
    Assessment,
    End,
    Fragment,
    Span,
    TracePart,
    decode,
    encode_fragment,
    mlflow_keys,
    trace_id_text,
)

__all__ = ["CapturedAssessment", "CapturedSpan", "CapturedTrace", "capture"]

_NO_KAFKA: Final = "captured.invalid:9092"


class CapturedSpan(SpanView):
    """An ended span as the worker will read it."""

    __slots__ = ("kind",)

    def __init__(self, trace_id: bytes, span: Span) -> None:
        super().__init__(
            trace_id, span.span_id, span.parent_id, span.name, span.span_type, span.start_ns
        )
        self._end_ns = span.end_ns
        self._status = span.status
        self._message = span.status_message
        self._attributes = span.attributes
        self._events = span.events
        self._links = span.links
        self.kind = span.kind
        """OpenTelemetry's; what spanferry's and MLflow's own API make is INTERNAL."""


class CapturedAssessment:
    """Feedback or an expectation; `event` is all of it as it is sent."""

    __slots__ = ("event",)

    def __init__(self, event: Assessment) -> None:
        self.event = event

    @property
    def name(self) -> str:
        """What is judged: `feedback` where nothing else was said."""
        return self.event.name

    @property
    def value(self) -> Any:
        """The judgement, or the answer that was wanted."""
        return values.decode(self.event.value)

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the trace; None where it was named by the client's request id."""
        return None if self.event.trace_id is None else trace_id_text(self.event.trace_id)

    @property
    def client_request_id(self) -> str | None:
        """The client's id of the request; None where the trace was named by its own."""
        return self.event.client_request_id


class CapturedTrace:
    """One trace, put together from all that was handed over of it."""

    def __init__(self, trace_id: bytes) -> None:
        self._trace_id = trace_id
        self._spans: dict[bytes, CapturedSpan] = {}
        self._ends: list[End] = []
        self.part = TracePart()
        """The trace's own part, as it was handed over last."""

    def add(self, fragment: Fragment) -> None:
        """Take a fragment of this trace."""
        for span in fragment.spans:
            self._spans.setdefault(span.span_id, CapturedSpan(self._trace_id, span))
        if fragment.trace is not None:
            self.part = _over(self.part, fragment.trace)
        if fragment.end is not None:
            self._ends.append(fragment.end)

    @property
    def trace_id(self) -> str:
        """MLflow's id of the trace."""
        return trace_id_text(self._trace_id)

    @property
    def spans(self) -> list[CapturedSpan]:
        """Ended spans, by the time of their start; the root is the first."""
        return sorted(
            self._spans.values(), key=lambda span: (span.start_time_ns, span.parent_id is not None)
        )

    @property
    def root(self) -> CapturedSpan:
        """The span without parent, else the first one. Raises LookupError where none has ended."""
        spans = self.spans
        return next((span for span in spans if span.parent_id is None), spans[0])

    @property
    def complete(self) -> bool:
        """Whether the root and every span that was started have ended."""
        return bool(self._ends) and sum(end.spans for end in self._ends) <= len(self._spans)

    @property
    def state(self) -> str:
        """OK or ERROR, as set or else as the root ended; IN_PROGRESS before that."""
        if self.part.state is not None:
            return self.part.state.value
        return str(self.root.status.status_code) if self._ends else "IN_PROGRESS"

    @property
    def name(self) -> str | None:
        """The trace's name: its root's, where nothing else was set."""
        return self.part.tags.get(mlflow_keys.TAG_TRACE_NAME)

    @property
    def tags(self) -> dict[str, str]:
        """The trace's tags."""
        return self.part.tags

    @property
    def metadata(self) -> dict[str, str]:
        """The trace's metadata, session and user among them."""
        return self.part.metadata

    @property
    def client_request_id(self) -> str | None:
        """The client's id of the request."""
        return self.part.client_request_id

    def span(self, name: str) -> CapturedSpan:
        """The first span of that name. Raises LookupError where there is none."""
        for span in self.spans:
            if span.name == name:
                return span
        raise LookupError(f"no span {name!r} among {[span.name for span in self.spans]}")


class capture:  # noqa: N801  used as a function: `with capture() as captured`
    """Context manager: inside it spanferry is enabled, and what it would send is kept here."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings(bootstrap_servers=_NO_KAFKA)
        self._before: Outlet | None = None
        self.parcels: list[Parcel] = []
        """What was handed over, in order."""

    @property
    def settings(self) -> Settings:
        """The options in force."""
        return self._settings

    def put(self, waiting: Waiting) -> None:
        """Keep a parcel, unless it is one that would only be counted as dropped."""
        parcel = waiting.parcel()
        if not parcel.broken:
            self.parcels.append(parcel)

    def __enter__(self) -> Self:
        self._before = outlets.install(self)
        if self._before is None and self._settings.mlflow:
            bridge.switch_on(accelerate=self._settings.accelerate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        outlets.install(self._before)
        if self._before is None:
            bridge.switch_off()

    @property
    def traces(self) -> list[CapturedTrace]:
        """Traces of which spans have been handed over, in that order."""
        traces: dict[bytes, CapturedTrace] = {}
        for parcel in list(self.parcels):
            if parcel.assessment is None:
                trace = traces.setdefault(parcel.trace_id, CapturedTrace(parcel.trace_id))
                trace.add(_fragment(parcel))
        return list(traces.values())

    @property
    def assessments(self) -> list[CapturedAssessment]:
        """Feedback and expectations, in order."""
        events = [parcel.assessment for parcel in list(self.parcels)]
        return [CapturedAssessment(event) for event in events if event is not None]

    def clear(self) -> None:
        """Forget what was captured so far."""
        self.parcels.clear()


def _over(before: TracePart, later: TracePart) -> TracePart:
    """What the worker makes of two parts of one trace: the later goes before the earlier."""
    said = {name: value for name in TracePart.__struct_fields__ if (value := getattr(later, name))}
    tags = {**before.tags, **later.tags}
    for name in set(later.deleted_tags) - later.tags.keys():
        tags.pop(name, None)
    metadata = {**before.metadata, **later.metadata}
    return replace(before, **{**said, "tags": tags, "metadata": metadata})


def _fragment(parcel: Parcel) -> Fragment:
    """The parcel as the worker reads it. Raises AssertionError where it could not."""
    value = encode_fragment(parcel.trace_id, encoded(parcel.spans), parcel.trace, parcel.end)
    event = decode(value)
    if not isinstance(event, Fragment):
        raise AssertionError(f"spanferry would have sent what its worker refuses: {event}")  # noqa: TRY004
    return event
