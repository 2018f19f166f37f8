"""Spans and their end: what MLflow's LiveSpan and NoOpSpan are."""

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from time import perf_counter_ns
from typing import Any, ClassVar, Final

from spanferry import values
from spanferry.ended_span import (
    SPAN_OVERHEAD_BYTES,
    EndedSpan,
    attributes_size,
    level_of,
    moments_size,
    names_size,
    with_level,
)
from spanferry.entities import (
    EventLike,
    Link,
    LinkLike,
    SpanEvent,
    SpanLogLevel,
    SpanStatus,
    SpanStatusCode,
    SpanType,
    StatusLike,
    nanoseconds_of,
)
from spanferry.finishing import ATTACHMENT_MARK, may_attach
from spanferry.log import say_once
from spanferry.parcel import PARCEL_OVERHEAD_BYTES
from spanferry.process import PROCESS, new_span_id
from spanferry.span_recorder import SpanRecorder
from spanferry.stopping import let_through
from spanferry.trace_state import LiveTrace, lose
from spanferry_schemas import Attachment, StatusCode, mlflow_keys, trace_id_text

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
    "install_before_end",
]

NO_OP_SPAN_TRACE_ID: Final = "MLFLOW_NO_OP_SPAN_TRACE_ID"
"""MLflow's trace id of a span that is not recorded."""

_LOG_LEVEL: Final = mlflow_keys.SPAN_LOG_LEVEL

_ATTACHMENT_BYTES_MAX: Final = "MLFLOW_TRACE_MAX_ATTACHMENT_SIZE"

_UNSET: Final = StatusCode.UNSET
_OK: Final = StatusCode.OK
_FAILED: Final = StatusCode.ERROR

_before_end: Callable[["Span"], None] | None = None


class _LastTrace:
    """The trace whose local root ended last."""

    __slots__ = ("anywhere", "here")

    def __init__(self) -> None:
        self.anywhere: bytes | None = None
        self.here: Final[ContextVar[bytes | None]] = ContextVar(
            "spanferry_last_trace", default=None
        )


_LAST_TRACE: Final = _LastTrace()


class Span(SpanRecorder):
    """A span of the app, from its start to its end."""

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
        self._name = name
        self._span_type = span_type
        self.begin(trace, parent_id, start_ns, is_root)

    def begin(
        self, trace: LiveTrace, parent_id: bytes | None, start_ns: int | None, is_root: bool
    ) -> None:
        """Start it; name and type are set. What SpanIdentity.__init__ sets, without the call."""
        self.trace = trace
        self.trace_id_bytes = trace.trace_id
        ids = PROCESS.span_ids
        try:
            self.span_id_bytes = ids.pop() if ids else new_span_id()
        except IndexError:  # another thread took the last one
            self.span_id_bytes = new_span_id()
        self._parent_id = parent_id
        self._end_ns = None
        self._status = _UNSET
        self._message = ""
        self._inputs = self._outputs = self._attributes = None
        self._events = ()
        self._links = ()
        self._is_root = is_root
        self._forks = PROCESS.forks
        if trace.keeps_spans:
            trace.opened(self)
        else:
            trace.spans += 1
        self._start_ns = start_ns or trace.clock_ns + perf_counter_ns()

    def rename(self, name: str) -> None:
        """Give a name that is known only later, to the trace too where it is called after this span."""
        if self.is_open("name"):
            tags = self.trace.facts.tags
            if self._is_root and tags.get(mlflow_keys.TAG_TRACE_NAME) == self._name:
                tags[mlflow_keys.TAG_TRACE_NAME] = values.text(name)
                self.trace.name = ""  # of use only while there are no facts
            self._name = name

    def attach(self, attachment: Any) -> str:
        """Take MLflow's Attachment; the reference that stands for it in inputs and outputs."""
        if not may_attach():
            return ATTACHMENT_MARK
        data = bytes(attachment.content_bytes)
        limit = os.environ.get(_ATTACHMENT_BYTES_MAX, "")
        if limit.isdecimal() and 0 < int(limit) < len(data):
            self.record_exception(
                f"Attachment too large ({len(data)} bytes > {limit} bytes limit). Content discarded."
            )
            return f"[Attachment too large: {len(data)} bytes exceeds {limit} bytes limit]"
        reference = values.text(attachment.ref(self.trace_id))
        content_type = values.text(attachment.content_type)
        self.trace.attach(Attachment(values.text(attachment.id), content_type, data))
        return reference

    def end(
        self,
        outputs: Any = None,
        attributes: Mapping[str, Any] | None = None,
        status: StatusLike | SpanStatusCode | str | None = None,
        end_time_ns: int | None = None,
    ) -> None:
        """End the span and hand it over; the status becomes OK unless it is ERROR.

        Ending the local root hands over the whole trace. A second call changes nothing.
        """
        now_ns = self.trace.clock_ns + perf_counter_ns()
        if self._end_ns is not None:
            self.is_open("end")
            return
        try:
            if attributes:
                self.set_attributes(attributes)
            if outputs is not None:
                self.set_outputs(outputs)
            if status is not None:
                self.set_status(status)
            if end_time_ns is not None:
                now_ns = nanoseconds_of(end_time_ns) or now_ns
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            let_through(error)
            say_once("span-end", "a span could not be handed over: %s", values.text(error))
        self.close(now_ns)
        if end_time_ns is not None:
            self._let_look()

    def _let_look(self) -> None:
        """What is due is so by the clock, whatever time the app has given."""
        try:
            self.trace.look()
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            let_through(error)
            say_once("span-end", "a span could not be handed over: %s", values.text(error))

    def close(self, end_ns: int) -> None:  # noqa: C901, PLR0912  see `_Process`
        """End the span, which is recorded and open, as it is, in one piece. Never raises."""
        try:
            status = self._status
            if status is _UNSET:
                self._status = status = _OK
            elif status is _OK:
                self._message = ""
            if _before_end is not None:
                _before_end(self)
                status = self._status
            if self._end_ns is not None:
                return  # another thread was faster
            self._end_ns = end_ns
            trace, process = self.trace, PROCESS
            forked = trace.forks != process.forks
            if forked and self._forks != process.forks:
                return  # the process that started the span has it too, and ends it
            inputs, outputs, attributes = self._inputs, self._outputs, self._attributes
            size = SPAN_OVERHEAD_BYTES + len(inputs or b"") + len(outputs or b"")
            try:
                size += len(self._name) + len(self._span_type)
            except Exception:  # noqa: BLE001  the app may have given no texts
                size += names_size(self._name, self._span_type)
            if attributes is not None:
                size += attributes_size(attributes)
            if self._events or self._links or self._message:
                size += len(self._message) + moments_size(self._events, self._links)
            ended = EndedSpan(self.span_id_bytes, self._parent_id, self._name, self._span_type,
                self._start_ns, end_ns, status, self._message, inputs, outputs, attributes,
                self._events, self._links)  # fmt: skip
            if size > process.finish_above:
                size = process.finisher.span(ended, size, trace)
            if forked:
                trace.add(ended, size, error=status is _FAILED)
                return
            if status is _FAILED:
                trace.failed = True
            if not self._is_root:
                trace.pending.append(ended)
                trace.pending_bytes += size
                if (
                    trace.root is not None
                    or trace.pending_bytes > trace.fragment_bytes
                    or end_ns > trace.due_ns
                    or trace.spans > trace.look_at
                ):
                    trace.look()
                return
            if trace.own_facts is not None or trace.keeps_spans or process.finish_above < 0:
                trace.finish(ended, size, error=False, duration_ns=end_ns - self._start_ns)
            else:
                trace.root, trace.spans_at_end = ended, trace.spans
                trace.size = PARCEL_OVERHEAD_BYTES + trace.pending_bytes + size
                trace.defaults.outlet.put(trace)
            _LAST_TRACE.anywhere = trace.trace_id
            _LAST_TRACE.here.set(trace.trace_id)
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            self._lost(end_ns, error)
            let_through(error)

    def _lost(self, end_ns: int, error: BaseException) -> None:
        """The span could not be handed over."""
        say_once("span-end", "a span could not be handed over: %s", values.text(error))
        if self._end_ns is None:
            self._end_ns = end_ns
        try:
            lose(self.trace, root=self._is_root)
        except Exception as trouble:  # noqa: BLE001  the app must not see our troubles
            say_once("span-lost", "a trace was lost, and not counted: %s", values.text(trouble))

    def settle(self) -> None:
        """Write down what nobody has said: the log level that follows from the type."""
        if _LOG_LEVEL not in (self._attributes or ()):
            self.set_encoded(_LOG_LEVEL, level_of(self._span_type))

    def encoded_attributes(self) -> dict[str, bytes]:
        """All attributes but trace id and type, as they are sent."""
        attributes = super().encoded_attributes()
        return attributes if self._end_ns is None else with_level(attributes, self._span_type)


class NoOpSpan(Span):
    """Stands in where nothing is recorded: not enabled, or not sampled. Everything is accepted.

    A trace that is not sampled keeps its ids, so that other services leave it out too.
    """

    __slots__ = ()

    recording: ClassVar[bool] = False

    def __init__(self, trace_id: bytes = bytes(16), span_id: bytes = bytes(8)) -> None:
        SpanRecorder.__init__(self, trace_id, span_id, None, "", SpanType.UNKNOWN, 0)

    @property
    def trace_id(self) -> str:
        """MLflow's word for a trace that is not there."""
        return NO_OP_SPAN_TRACE_ID

    @property
    def otel_trace_id(self) -> bytes:
        """The trace's id for other services; all zero where there is no trace at all."""
        return self.trace_id_bytes

    def is_open(self, what: str) -> bool:  # noqa: ARG002  there is nothing to say
        """Never."""
        return False

    def rename(self, name: str) -> None:
        """Nothing."""

    def set_inputs(self, inputs: Any) -> None:
        """Nothing."""

    def set_outputs(self, outputs: Any) -> None:
        """Nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Nothing."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Nothing."""

    def set_log_level(self, level: SpanLogLevel | str) -> None:
        """Nothing."""

    def set_status(self, status: StatusLike | SpanStatusCode | str) -> None:
        """Nothing."""

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
        status: StatusLike | SpanStatusCode | str | None = None,
        end_time_ns: int | None = None,
    ) -> None:
        """Nothing."""


NO_OP_SPAN: Final = NoOpSpan()
"""The span of an app in which spanferry is not enabled."""


def get_last_active_trace_id(thread_local: bool = False) -> str | None:
    """The trace whose local root ended last in this process; with `thread_local` in this context."""
    last = _LAST_TRACE.here.get() if thread_local else _LAST_TRACE.anywhere
    return None if last is None else trace_id_text(last)


def install_before_end(call: Callable[[Span], None] | None) -> None:
    """Have every span shown to `call` when all of it is set and nothing is encoded yet.

    It may `settle` the span, and still change it. It must not raise; what it raises loses the span.
    """
    global _before_end  # noqa: PLW0603  the process has one
    _before_end = call
