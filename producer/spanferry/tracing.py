"""Starting spans and speaking of the current trace: MLflow's fluent functions."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

from spanferry import outlet as outlets
from spanferry import values
from spanferry.active_model import ActiveModel, set_active_model
from spanferry.context import (
    CurrentToken,
    RemoteParent,
    current,
    get_current_active_span,
    leave,
)
from spanferry.entities import LinkLike, SpanLogLevel, SpanType, nanoseconds_of
from spanferry.log import say_once
from spanferry.opening import complain_not_enabled, open_span
from spanferry.propagation import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)
from spanferry.spans import NO_OP_SPAN, NoOpSpan, Span, get_last_active_trace_id
from spanferry.trace_state import LiveTrace, TraceFacts
from spanferry_schemas import TraceState, mlflow_keys

__all__ = [
    "ActiveModel",
    "TraceDestination",
    "destination_of",
    "dress",
    "get_active_trace_id",
    "get_current_active_span",
    "get_last_active_trace_id",
    "get_tracing_context_headers_for_http_request",
    "set_active_model",
    "set_tracing_context_from_http_request_headers",
    "start_span",
    "start_span_no_context",
    "update_current_trace",
]

_IMMUTABLE_TAGS: Final = frozenset(
    {
        "mlflow.user",
        "mlflow.artifactLocation",
        "mlflow.trace.spansLocation",
        "mlflow.trace.archiveLocation",
        "mlflow.trace.archivalFailure",
    }
)
"""MLflow sets these itself and leaves them out where a user gives them at the start."""


_UNKNOWN: Final = SpanType.UNKNOWN

_START_TIME: Final = "mlflow.spanStartTimeNs"
"""MLflow keeps a given start time as an attribute too."""


Dressing: TypeAlias = tuple[
    Mapping[str, Any] | None, str | None, SpanLogLevel | str | None, Sequence[LinkLike] | None
]
"""Attributes, description, log level and links of a new span."""


class TraceDestination(Protocol):
    """Where a trace goes: MLflow's MlflowExperimentLocation, or anything with an experiment's id."""

    @property
    def experiment_id(self) -> str | None: ...


class start_span:  # noqa: N801  MLflow's name, and a class so that entering it costs little
    """Context manager: a new span under the current one, current itself until the end.

    It starts where the `with` block is entered and ends where it is left. An exception that leaves
    the block is recorded and goes on. Without a current span it is the root of a new trace, to which
    alone `trace_destination` and `run_id` apply.
    """

    __slots__ = (
        "_destination",
        "_dressing",
        "_name",
        "_run_id",
        "_span",
        "_span_type",
        "_token",
    )

    def __init__(  # noqa: PLR0913, PLR0917  MLflow's signature
        self,
        name: str = "span",
        span_type: str | None = SpanType.UNKNOWN,
        attributes: Mapping[str, Any] | None = None,
        trace_destination: TraceDestination | None = None,
        log_level: SpanLogLevel | str | None = None,
        run_id: str | None = None,
        links: Sequence[LinkLike] | None = None,
        description: str | None = None,
    ) -> None:
        self._name = name
        self._span_type = span_type
        self._destination = trace_destination
        self._run_id = run_id
        self._dressing = (
            None
            if attributes is None and description is None and log_level is None and links is None
            else (attributes, description, log_level, links)
        )
        self._span: Span = NO_OP_SPAN
        self._token: CurrentToken | None = None

    def __enter__(self) -> Span:
        return self._enter(None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        self._exit(error)

    def _enter(self, ratio: float | None) -> Span:
        """Start the span and make it current; `ratio` is as `open_span` takes it."""
        destination = None if self._destination is None else destination_of(self._destination)
        span_type = _UNKNOWN if self._span_type is None else self._span_type
        span = open_span(self._name, span_type, None, None, destination, ratio)
        self._span = span
        if span is NO_OP_SPAN:
            return span
        if span.recording:
            if self._dressing is not None:
                dress(span, *self._dressing)
            if self._run_id is not None:
                _set_run(span, self._run_id)
        self._token = current.set(span)
        return span

    def _exit(self, error: BaseException | None) -> None:
        """End the span, with the exception that leaves its block."""
        token, self._token = self._token, None
        if token is None:
            return
        leave(token)
        span = self._span
        if error is not None and isinstance(error, Exception):
            span.record_exception(error)
        if span.end_time_ns is None:
            span.end()

    def _given(self) -> tuple[Any, ...]:
        """What it was made with, in the order of the parameters."""
        attributes, description, log_level, links = self._dressing or (None, None, None, None)
        first = (self._name, self._span_type, attributes, self._destination)
        return (*first, log_level, self._run_id, links, description)


def start_span_no_context(  # noqa: PLR0913, PLR0917  MLflow's signature
    name: str,
    span_type: str = SpanType.UNKNOWN,
    parent_span: Span | None = None,
    inputs: Any = None,
    attributes: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    experiment_id: str | None = None,
    start_time_ns: int | None = None,
    log_level: SpanLogLevel | str | None = None,
    links: Sequence[LinkLike] | None = None,
    description: str | None = None,
) -> Span:
    """A started span that does not become current; the caller ends it with `end()`.

    Its parent is `parent_span`, else the current span as in MLflow, else it is the root of a new
    trace. `tags` and `metadata` are the trace's.
    """
    start_ns = None if start_time_ns is None else nanoseconds_of(start_time_ns)
    span = open_span(name, span_type, parent_span, start_ns, experiment_id)
    if not span.recording:
        return span
    dressing = (attributes, description, log_level, links)
    return outfit(span, start_ns, inputs, dressing, tags, metadata)


def outfit(
    span: Span,
    start_ns: int | None,
    inputs: Any,
    dressing: Dressing,
    tags: Mapping[str, str] | None,
    metadata: Mapping[str, str] | None,
) -> Span:
    """Give a new span, and its trace, all that `start_span_no_context` was given for it."""
    if start_ns is not None:
        span.set_attribute(_START_TIME, start_ns)
    if inputs is not None:
        span.set_inputs(inputs)
    dress(span, *dressing)
    if tags is not None:
        _add_texts(span.trace, "tags", tags, leave_out=_IMMUTABLE_TAGS)
    if metadata is not None:
        _add_texts(span.trace, "metadata", metadata)
    return span


def get_active_trace_id() -> str | None:
    """The trace that is active here; None where there is none."""
    span = get_current_active_span()
    return None if span is None else span.trace_id


def update_current_trace(  # noqa: PLR0913, PLR0917  MLflow's signature
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    client_request_id: str | None = None,
    request_preview: str | None = None,
    response_preview: str | None = None,
    state: TraceState | str | None = None,
    model_id: str | None = None,
    session_id: str | None = None,
    user: str | None = None,
) -> None:
    """Set what belongs to the current trace as a whole, until its root span ends.

    Values of tags and metadata that are no strings are stored as str() gives them. `state` is OK or
    ERROR and goes before what follows from the root span. What cannot be used is said once and
    left out.
    """
    span = current.get()
    if isinstance(span, NoOpSpan):
        return
    if span is None or isinstance(span, RemoteParent) or span.trace is None:
        _complain_no_trace()
        return
    trace = span.trace
    if trace.ended:
        say_once("trace-ended", "the trace's root span has ended: update_current_trace is ignored")
        return
    try:
        if tags is not None:
            _add_texts(trace, "tags", tags)
        if metadata is not None:
            _add_texts(trace, "metadata", metadata)
        facts = trace.facts
        _set_own(facts, session_id, user, model_id)
        if client_request_id is not None:
            facts.client_request_id = values.text(client_request_id)
        facts.request_preview = _preview(request_preview) or facts.request_preview
        facts.response_preview = _preview(response_preview) or facts.response_preview
        if state is not None:
            facts.state = _state(state) or facts.state
    except Exception as error:  # noqa: BLE001  whatever a user's object does
        say_once("update", "update_current_trace could not use it all: %s", values.text(error))
    trace.changed = True


def destination_of(destination: TraceDestination) -> str | None:
    """The experiment's id in a destination; None where it has none."""
    try:
        return destination.experiment_id
    except Exception as error:  # noqa: BLE001  whatever a user's object does
        say_once("destination-id", "a trace destination has no id: %s", values.text(error))
        return None


def dress(
    span: Span,
    attributes: Mapping[str, Any] | None,
    description: str | None,
    log_level: SpanLogLevel | str | None,
    links: Sequence[LinkLike] | None,
) -> None:
    """Give a new span what its starter was given for it."""
    try:
        if attributes:
            span.set_attributes(attributes)
        if description is not None:
            span.set_description(description)
        if log_level is not None:
            span.set_log_level(log_level)
        for link in links or ():
            span.add_link(link)
    except Exception as error:  # noqa: BLE001  whatever a user's object does
        say_once("dress", "a span could not be given it all: %s", values.text(error))


def _set_own(
    facts: TraceFacts, session_id: str | None, user: str | None, model_id: str | None
) -> None:
    """Put what has a name of its own in the call, and a key of MLflow's in the metadata."""
    if session_id is not None:
        facts.metadata[mlflow_keys.METADATA_SESSION] = values.text(session_id)
    if user is not None:
        facts.metadata[mlflow_keys.METADATA_USER] = values.text(user)
    if model_id:
        facts.metadata[mlflow_keys.METADATA_MODEL_ID] = values.text(model_id)
        facts.active_model = None


def _set_run(span: Span, run_id: str) -> None:
    if span.parent_id is not None:
        say_once("run-id", "run_id is for root spans only and is ignored")
        return
    span.trace.facts.metadata[mlflow_keys.METADATA_SOURCE_RUN] = values.text(run_id)


def _add_texts(
    trace: LiveTrace,
    what: str,
    given: Mapping[str, Any],
    leave_out: frozenset[str] = frozenset(),
) -> None:
    """Put tags or metadata into the trace's own part, as text."""
    try:
        pairs = list(given.items())
    except Exception:  # noqa: BLE001  whatever a user's mapping does
        say_once(f"texts-{what}", "%s must be a dict, %s is left out", what, type(given))
        return
    texts: dict[str, str] = {}
    for key, value in pairs:
        if not issubclass(type(value), str):
            say_once(f"text-{what}", "values of %s are stored as text: %s", what, values.text(key))
        texts[values.text(key)] = values.text(value)
    for key in leave_out.intersection(texts):
        del texts[key]
    kept = trace.facts.tags if what == "tags" else trace.facts.metadata
    kept.update(texts)
    trace.changed = True


def _preview(preview: object) -> str | None:
    if preview is None or type(preview) is str:
        return preview and values.clean(preview)
    say_once("preview", "a preview must be a string, %s is left out", type(preview))
    return None


def _state(state: object) -> TraceState | None:
    known = values.text(state).rpartition(".")[2]
    if known in {TraceState.OK, TraceState.ERROR}:
        return TraceState(known)
    say_once("state", "a trace's state is OK or ERROR, %s is left out", known)
    return None


def _complain_no_trace() -> None:
    if outlets.current() is None:
        complain_not_enabled()
    else:
        say_once(
            "no-trace",
            "there is no current trace to update: call update_current_trace inside a function with "
            "@spanferry.trace or a `with spanferry.start_span()` block",
        )
