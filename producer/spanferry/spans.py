"""Spans while they are open: what MLflow's LiveSpan and NoOpSpan are."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Final, cast

from msgspec.structs import replace

from spanferry import values
from spanferry.entities import (
    EventLike,
    Link,
    LinkLike,
    SpanEvent,
    SpanLogLevel,
    SpanStatus,
    SpanStatusCode,
    SpanType,
    event_to_wire,
    link_to_wire,
    log_level_of,
    nanoseconds_of,
    status_of,
)
from spanferry.log import say_once
from spanferry.process import fork_count, new_span_id
from spanferry.span_view import SpanView
from spanferry.trace_state import LiveTrace
from spanferry_schemas import Span as WireSpan
from spanferry_schemas import StatusCode, encode_span, mlflow_keys, trace_id_text

__all__ = [
    "NO_OP_SPAN",
    "NO_OP_SPAN_TRACE_ID",
    "Link",
    "NoOpSpan",
    "Span",
    "SpanEvent",
    "SpanLogLevel",
    "SpanStatus",
    "SpanStatusCode",
    "SpanType",
    "get_last_active_trace_id",
]

NO_OP_SPAN_TRACE_ID: Final = "MLFLOW_NO_OP_SPAN_TRACE_ID"
"""MLflow's trace id of a span that is not recorded."""

_EVENTS_MAX: Final = 128
"""Events and links of one span: the newest are kept, as OpenTelemetry does under MLflow."""

_INFO_TYPES: Final = frozenset({"LLM", "CHAT_MODEL", "TOOL", "RETRIEVER", "AGENT", "EMBEDDING"})
"""Span types that MLflow's UI shows at its default verbosity."""

_NULL: Final = b"null"
_DEBUG: Final = b"10"
_INFO: Final = b"20"
_ERROR: Final = b"40"

_OK = StatusCode.OK
_FAILED = StatusCode.ERROR
_UNSET = StatusCode.UNSET

_last_trace: ContextVar[bytes | None] = ContextVar("spanferry_last_trace", default=None)
_last_trace_anywhere: bytes | None = None


class Span(SpanView):
    """A span of the app. Values are encoded when they are set, so they may change afterwards.

    No method raises. What cannot be used is said once in the log and left out.
    """

    __slots__ = ("_forks", "_is_root", "trace")

    recording: ClassVar[bool] = True
    """False for spans that only stand in for one."""

    trace: LiveTrace
    """The trace as this process knows it; spanferry's own business."""

    def __init__(
        self,
        trace: LiveTrace,
        parent_id: bytes | None,
        name: str,
        span_type: str,
        start_ns: int | None,
        is_root: bool,
    ) -> None:
        super().__init__(
            trace.trace_id,
            new_span_id(),
            parent_id,
            name,
            span_type,
            start_ns or trace.now_ns(),
        )
        self.trace = trace
        self._is_root = is_root
        self._forks = fork_count()
        trace.count_span()

    @property
    def span_id_bytes(self) -> bytes:
        """The span id as it is sent."""
        return self._span_id

    @property
    def lacks_outputs(self) -> bool:
        """Whether no outputs but None have been set."""
        return self._attributes.get(mlflow_keys.SPAN_OUTPUTS, _NULL) == _NULL

    def set_encoded(self, key: str, value: bytes) -> None:
        """Set an attribute whose value is a JSON text already."""
        if self._is_open(key):
            self._attributes[key] = value

    def set_inputs(self, inputs: Any) -> None:
        """Record what went in."""
        self.set_encoded(mlflow_keys.SPAN_INPUTS, values.encode(inputs))

    def set_outputs(self, outputs: Any) -> None:
        """Record what came out."""
        self.set_encoded(mlflow_keys.SPAN_OUTPUTS, values.encode(outputs))

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; a later value replaces an earlier one."""
        if not _is_str(key):
            say_once("attribute-key", "attribute keys must be strings, %s is left out", type(key))
        elif key == mlflow_keys.SPAN_TYPE:
            self.set_span_type(value)
        elif key != mlflow_keys.REQUEST_ID:
            self.set_encoded(str.__str__(key), values.encode(value))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        try:
            pairs = list(attributes.items())
        except Exception:  # noqa: BLE001  whatever a user's mapping does
            say_once("attributes", "attributes must be a dict, %s is left out", type(attributes))
            return
        for key, value in pairs:
            self.set_attribute(key, value)

    def rename(self, name: str) -> None:
        """Give a name that is known only later, to the trace too where it is called after this span."""
        if self._is_open("name"):
            tags = self.trace.facts.tags
            if self._is_root and tags.get(mlflow_keys.TAG_TRACE_NAME) == self._name:
                tags[mlflow_keys.TAG_TRACE_NAME] = values.text(name)
            self._name = name

    def set_span_type(self, span_type: str) -> None:
        """Say what kind of work this is."""
        if self._is_open("span_type"):
            self._span_type = span_type

    def set_description(self, description: str) -> None:
        """Describe the span in words."""
        self.set_attribute(mlflow_keys.SPAN_DESCRIPTION, description)

    def set_log_level(self, level: SpanLogLevel | str) -> None:
        """Say how much the span matters: a SpanLogLevel or its name."""
        known = log_level_of(level)
        if known is None:
            say_once("log-level", "%s is not a span log level and is left out", values.text(level))
        else:
            self.set_encoded(mlflow_keys.SPAN_LOG_LEVEL, b"%d" % known)

    def set_status(self, status: SpanStatus | SpanStatusCode | str) -> None:
        """Say how it went. As in OpenTelemetry, OK stays and UNSET changes nothing."""
        known = status_of(status)
        if known is None:
            say_once("status", "%s is not a span status and is left out", values.text(status))
        elif self._status is not _OK and known[0] is not _UNSET and self._is_open("status"):
            self._status, self._message = known

    def add_event(self, event: EventLike) -> None:
        """Add a moment. One named `exception` raises the log level to ERROR."""
        try:
            wire = event_to_wire(event)
        except Exception as error:  # noqa: BLE001  whatever a user's event does
            say_once("event", "a span event could not be used: %s", values.text(error))
            return
        if not self._is_open("event"):
            return
        self._events.append(wire)
        if len(self._events) > _EVENTS_MAX:
            del self._events[0]
        if wire.name == "exception":
            level = self._attributes.get(mlflow_keys.SPAN_LOG_LEVEL, _DEBUG)
            self._attributes[mlflow_keys.SPAN_LOG_LEVEL] = max(level, _ERROR)

    def add_link(self, link: LinkLike) -> None:
        """Point to another span."""
        try:
            wire = link_to_wire(link)
        except Exception as error:  # noqa: BLE001  whatever a user's link does
            say_once("link", "a span link could not be used: %s", values.text(error))
            return
        if self._is_open("link"):
            self._links.append(wire)
            if len(self._links) > _EVENTS_MAX:
                del self._links[0]

    def record_exception(self, exception: BaseException | str) -> None:
        """Add an exception event and set the status to ERROR."""
        if _is_str(exception):
            exception = Exception(exception)
        if not issubclass(type(exception), BaseException):
            say_once("exception", "record_exception takes an exception or a text, nothing else")
            return
        try:
            event = SpanEvent.from_exception(cast("BaseException", exception))
            message = (
                f"{event.attributes['exception.type']}: {event.attributes['exception.message']}"
            )
            self.add_event(event)
            self.set_status(SpanStatus(SpanStatusCode.ERROR, message))
        except Exception as error:  # noqa: BLE001  whatever a user's exception does
            say_once("exception", "an exception could not be recorded: %s", values.text(error))

    def end(
        self,
        outputs: Any = None,
        attributes: Mapping[str, Any] | None = None,
        status: SpanStatus | SpanStatusCode | str | None = None,
        end_time_ns: int | None = None,
    ) -> None:
        """End the span and hand it over; the status becomes OK unless it is ERROR.

        Ending the local root hands over the whole trace. A second call changes nothing.
        """
        now_ns = self.trace.now_ns()
        if not self._is_open("end"):
            return
        try:
            if attributes:
                self.set_attributes(attributes)
            if outputs is not None:
                self.set_outputs(outputs)
            if status is not None:
                self.set_status(status)
            self._close(nanoseconds_of(end_time_ns) or now_ns)
        except Exception as error:  # noqa: BLE001  the app must not see our troubles
            say_once("span-end", "a span could not be handed over: %s", values.text(error))

    def _close(self, end_ns: int) -> None:
        if self._status is not _FAILED:
            self._status, self._message = _OK, ""
        attributes = self._attributes
        if mlflow_keys.SPAN_LOG_LEVEL not in attributes:
            level = _INFO if self._span_type in _INFO_TYPES else _DEBUG
            attributes[mlflow_keys.SPAN_LOG_LEVEL] = level
        self._end_ns = end_ns
        if self._forks != fork_count():
            return  # the process that started the span has it too, and ends it
        error = self._status is _FAILED
        encoded = self._encoded(end_ns)
        if not self._is_root:
            self.trace.add(encoded, error=error)
            return
        self.trace.finish(encoded, error=error, duration_ns=end_ns - self._start_ns)
        _remember(self._trace_id)

    def _encoded(self, end_ns: int) -> bytes:
        span = WireSpan(
            self._span_id,
            self._parent_id,
            self._name,
            self._span_type,
            self._start_ns,
            end_ns,
            self._status,
            self._message,
            self._attributes,
            self._events,
            self._links,
        )
        if type(span.name) is str and type(span.span_type) is str:
            try:
                return encode_span(span)
            except UnicodeEncodeError:
                pass
        return encode_span(
            replace(
                span,
                name=values.text(span.name),
                span_type=values.text(span.span_type) if span.span_type else SpanType.UNKNOWN,
                attributes={values.clean(k): v for k, v in span.attributes.copy().items()},
            )
        )

    def _is_open(self, what: str) -> bool:
        if self._end_ns is None:
            return True
        say_once("span-ended", "span %s has ended: %s is ignored", values.text(self._name), what)
        return False


class NoOpSpan(Span):
    """Stands in where nothing is recorded: not enabled, or not sampled. Everything is accepted.

    A trace that is not sampled keeps its ids, so that other services leave it out too.
    """

    __slots__ = ()

    recording: ClassVar[bool] = False

    def __init__(self, trace_id: bytes = bytes(16), span_id: bytes = bytes(8)) -> None:
        SpanView.__init__(self, trace_id, span_id, None, "", SpanType.UNKNOWN, 0)

    @property
    def trace_id(self) -> str:
        """MLflow's word for a trace that is not there."""
        return NO_OP_SPAN_TRACE_ID

    @property
    def otel_trace_id(self) -> bytes:
        """The trace's id for other services; all zero where there is no trace at all."""
        return self._trace_id

    def add_event(self, event: EventLike) -> None:
        """Nothing."""

    def add_link(self, link: LinkLike) -> None:
        """Nothing."""

    def record_exception(self, exception: BaseException | str) -> None:
        """Nothing."""

    def end(
        self,
        outputs: Any = None,
        attributes: Mapping[str, Any] | None = None,
        status: SpanStatus | SpanStatusCode | str | None = None,
        end_time_ns: int | None = None,
    ) -> None:
        """Nothing."""

    def rename(self, name: str) -> None:
        """Nothing."""

    def set_encoded(self, key: str, value: bytes) -> None:
        """Nothing."""

    def set_inputs(self, inputs: Any) -> None:
        """Nothing."""

    def set_outputs(self, outputs: Any) -> None:
        """Nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Nothing."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Nothing."""

    def set_span_type(self, span_type: str) -> None:
        """Nothing."""

    def set_log_level(self, level: SpanLogLevel | str) -> None:
        """Nothing."""

    def set_status(self, status: SpanStatus | SpanStatusCode | str) -> None:
        """Nothing."""


NO_OP_SPAN: Final = NoOpSpan()
"""The span of an app in which spanferry is not enabled."""


def _is_str(value: object) -> bool:
    """By type alone: isinstance would ask the value, and a value may raise."""
    return issubclass(type(value), str)


def get_last_active_trace_id(thread_local: bool = False) -> str | None:
    """The trace whose local root ended last in this process; with `thread_local` in this context."""
    last = _last_trace.get() if thread_local else _last_trace_anywhere
    return None if last is None else trace_id_text(last)


def _remember(trace_id: bytes) -> None:
    global _last_trace_anywhere  # noqa: PLW0603  the process has one
    _last_trace_anywhere = trace_id
    _last_trace.set(trace_id)
