"""Starting spans and speaking of the current trace: MLflow's fluent functions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from spanferry import outlet as outlets
from spanferry import values
from spanferry.active_model import ActiveModel, set_active_model
from spanferry.context import RemoteParent, current, get_current_active_span
from spanferry.dressing import Dressing, TraceDestination, dress
from spanferry.entities import LinkLike, SpanLogLevel, SpanType, nanoseconds_of
from spanferry.log import say_once
from spanferry.opening import complain_not_enabled, open_span
from spanferry.propagation import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)
from spanferry.spans import NoOpSpan, Span, get_last_active_trace_id
from spanferry.starting import start_span
from spanferry.stopping import let_through
from spanferry.texts import session_text
from spanferry.trace_state import LiveTrace
from spanferry_schemas import TraceState, mlflow_keys

__all__ = [
    "ActiveModel",
    "TraceDestination",
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


_SESSION: Final = mlflow_keys.METADATA_SESSION
_USER: Final = mlflow_keys.METADATA_USER

_START_TIME: Final = "mlflow.spanStartTimeNs"
"""MLflow keeps a given start time as an attribute too."""


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


def update_current_trace(  # noqa: C901, PLR0913, PLR0917  MLflow's signature
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    client_request_id: str | None = None,
    request_preview: str | None = None,
    response_preview: str | None = None,
    state: TraceState | str | None = None,
    model_id: str | None = None,
    session_id: str | list[str] | None = None,
    user: str | None = None,
) -> None:
    """Set what belongs to the current trace as a whole, until its root span ends.

    Values of tags and metadata that are no strings are stored as str() gives them. `state` is OK or
    ERROR and goes before what follows from the root span. A list as `session_id` names the session
    level by level, outermost first; any other is kept as text. What cannot be used is said once and left
    out.
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
        facts = trace.facts
        if tags is not None:
            _add_texts(trace, "tags", tags)
        if metadata is not None:
            _add_texts(trace, "metadata", metadata)
        if session_id is not None or user is not None:
            texts = facts.metadata
            if session_id is not None:
                own = session_id if type(session_id) is str else session_text(session_id)
                texts[_SESSION] = own if own.isascii() else values.clean(own)
            if user is not None:
                own = user if type(user) is str else values.text(user)
                texts[_USER] = own if own.isascii() else values.clean(own)
        if model_id:
            facts.metadata[mlflow_keys.METADATA_MODEL_ID] = values.text(model_id)
            facts.active_model, facts.model_params = None, {}
        if client_request_id is not None:
            facts.client_request_id = values.text(client_request_id)
        if request_preview is not None or response_preview is not None or state is not None:
            _show(trace, request_preview, response_preview, state)
    except BaseException as error:  # noqa: BLE001  whatever a user's object does
        let_through(error)
        say_once("update", "update_current_trace could not use it all: %s", values.text(error))
    trace.changed = True


def _add_texts(
    trace: LiveTrace,
    what: str,
    given: Mapping[str, Any],
    leave_out: frozenset[str] = frozenset(),
) -> None:
    """Put tags or metadata into the trace's own part, as text."""
    kept = trace.facts.tags if what == "tags" else trace.facts.metadata
    try:
        pairs = list(given.items())
    except BaseException as error:  # noqa: BLE001  whatever a user's mapping does
        let_through(error)
        say_once(f"texts-{what}", "%s must be a dict, %s is left out", what, type(given))
        return
    for key, value in pairs:
        own_key = key if type(key) is str and key.isascii() else values.text(key)
        if type(value) is str and value.isascii():
            own_text = value
        else:
            own_text = values.text(value)
            if not issubclass(type(value), str):
                say_once(f"text-{what}", "values of %s are stored as text: %s", what, own_key)
        if own_key not in leave_out:
            kept[own_key] = own_text
    trace.changed = True


def _show(
    trace: LiveTrace, request_preview: object, response_preview: object, state: object
) -> None:
    """Set what lists show of the trace."""
    facts = trace.facts
    facts.request_preview = _preview(request_preview) or facts.request_preview
    facts.response_preview = _preview(response_preview) or facts.response_preview
    if state is not None:
        facts.state = _state(state) or facts.state


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
