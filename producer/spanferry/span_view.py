"""A span as it can be read, whether it is still open or came out of a test's outlet."""

from collections.abc import Sequence
from typing import Any, Final

from spanferry import values
from spanferry.ended_span import named
from spanferry.entities import (
    Link,
    SpanEvent,
    SpanLogLevel,
    SpanStatus,
    SpanStatusCode,
    link_from_wire,
    log_level_of,
)
from spanferry_schemas import SpanEvent as WireEvent
from spanferry_schemas import SpanLink as WireLink
from spanferry_schemas import StatusCode, mlflow_keys, trace_id_text

__all__ = ["SpanIdentity", "SpanView"]

_NULL: Final = b"null"


class SpanIdentity:
    """Which span it is, and when."""

    __slots__ = (
        "_attributes",
        "_end_ns",
        "_events",
        "_inputs",
        "_links",
        "_message",
        "_name",
        "_outputs",
        "_parent_id",
        "_span_type",
        "_start_ns",
        "_status",
        "span_id_bytes",
        "trace_id_bytes",
    )

    def __init__(
        self,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes | None,
        name: str,
        span_type: str,
        start_ns: int,
    ) -> None:
        self.trace_id_bytes = trace_id
        """The trace id as it is sent."""
        self.span_id_bytes = span_id
        """The span id as it is sent."""
        self._parent_id = parent_id
        self._name = name
        self._span_type = span_type
        self._start_ns = start_ns
        self._end_ns: int | None = None
        self._status = StatusCode.UNSET
        self._message = ""
        self._inputs: bytes | None = None
        self._outputs: bytes | None = None
        self._attributes: dict[str, bytes] | None = None
        self._events: Sequence[WireEvent] = ()
        self._links: Sequence[WireLink] = ()

    @property
    def trace_id(self) -> str:
        """MLflow's id of the trace: `tr-` and 32 hexadecimal digits."""
        return trace_id_text(self.trace_id_bytes)

    @property
    def request_id(self) -> str:
        """The trace id by its old name."""
        return self.trace_id

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.span_id_bytes.hex()

    @property
    def parent_id(self) -> str | None:
        """The parent's span id; None for the root of the trace."""
        return None if self._parent_id is None else self._parent_id.hex()

    @property
    def name(self) -> str:
        """The span's name."""
        return self._name

    @property
    def span_type(self) -> str:
        """One of SpanType, or a type of the app's own."""
        return self._span_type

    @property
    def start_time_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self._start_ns

    @property
    def end_time_ns(self) -> int | None:
        """Nanoseconds since 1970; None while the span is open."""
        return self._end_ns

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, trace_id={self.trace_id!r}, "
            f"span_id={self.span_id!r}, parent_id={self.parent_id!r})"
        )


class SpanView(SpanIdentity):
    """What MLflow's spans let one read. Values come back as JSON gives them, not as they went in."""

    __slots__ = ()

    @property
    def status(self) -> SpanStatus:
        """How it went."""
        return SpanStatus(SpanStatusCode[self._status.name], self._message)

    @property
    def inputs(self) -> Any:
        """What was recorded as inputs; None where nothing was."""
        return self.get_attribute(mlflow_keys.SPAN_INPUTS)

    @property
    def outputs(self) -> Any:
        """What was recorded as outputs; None where nothing was."""
        return self.get_attribute(mlflow_keys.SPAN_OUTPUTS)

    @property
    def description(self) -> str | None:
        """What it is about; None where nothing was said."""
        description: str | None = self.get_attribute(mlflow_keys.SPAN_DESCRIPTION)
        return description

    @property
    def model_name(self) -> str | None:
        """The model that was asked, where an attribute says so."""
        model: str | None = self.get_attribute(mlflow_keys.SPAN_MODEL)
        return model

    @property
    def llm_cost(self) -> dict[str, float] | None:
        """Cost in US dollars, where an attribute says so; else the worker computes it from the tokens."""
        cost: dict[str, float] | None = self.get_attribute(mlflow_keys.SPAN_COST)
        return cost

    @property
    def log_level(self) -> SpanLogLevel | None:
        """How much the span matters; None while that is left to its type."""
        return log_level_of(self.get_attribute(mlflow_keys.SPAN_LOG_LEVEL))

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes, with trace id and type among them as MLflow has it."""
        own = {mlflow_keys.REQUEST_ID: self.trace_id, mlflow_keys.SPAN_TYPE: self._span_type}
        return own | {key: values.decode(value) for key, value in self.encoded_attributes().items()}

    @property
    def events(self) -> list[SpanEvent]:
        """Events in the order in which they were added."""
        return [SpanEvent.from_wire(event) for event in self._events]

    @property
    def links(self) -> list[Link]:
        """Links in the order in which they were added."""
        return [link_from_wire(link) for link in self._links]

    def get_attribute(self, key: str) -> Any:
        """One attribute's value; None where it is not set."""
        if key == mlflow_keys.SPAN_TYPE:
            return self._span_type
        if key == mlflow_keys.REQUEST_ID:
            return self.trace_id
        return values.decode(self.encoded_attributes().get(key, _NULL))

    def encoded_attributes(self) -> dict[str, bytes]:
        """All attributes but trace id and type, as they are sent."""
        return named(self._inputs, self._outputs, self._attributes)

    @property
    def lacks_outputs(self) -> bool:
        """Whether no outputs but None have been set."""
        return self._outputs is None or self._outputs == _NULL
