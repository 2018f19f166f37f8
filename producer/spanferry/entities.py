"""The small words of tracing that users pass in and read back, named and valued as MLflow's."""

import time
import traceback
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import Struct

from spanferry import values
from spanferry.stopping import let_through
from spanferry_schemas import SpanEvent as WireEvent
from spanferry_schemas import SpanLink as WireLink
from spanferry_schemas import StatusCode, trace_id_text
from spanferry_schemas.limits import SPAN_ID_BYTES, TRACE_ID_BYTES

__all__ = [
    "EventLike",
    "Link",
    "LinkLike",
    "SpanEvent",
    "SpanLogLevel",
    "SpanStatus",
    "SpanStatusCode",
    "SpanType",
    "StatusLike",
    "event_to_wire",
    "link_from_wire",
    "link_to_wire",
    "log_level_of",
    "nanoseconds_of",
    "stack_trace",
    "status_of",
]

_NANOSECONDS_MAX: Final = 2**63 - 1


class SpanType:
    """MLflow's span types. Any other string will do as well."""

    LLM: Final = "LLM"
    CHAIN: Final = "CHAIN"
    AGENT: Final = "AGENT"
    TOOL: Final = "TOOL"
    CHAT_MODEL: Final = "CHAT_MODEL"
    RETRIEVER: Final = "RETRIEVER"
    PARSER: Final = "PARSER"
    EMBEDDING: Final = "EMBEDDING"
    RERANKER: Final = "RERANKER"
    MEMORY: Final = "MEMORY"
    UNKNOWN: Final = "UNKNOWN"
    WORKFLOW: Final = "WORKFLOW"
    TASK: Final = "TASK"
    GUARDRAIL: Final = "GUARDRAIL"
    EVALUATOR: Final = "EVALUATOR"


class SpanStatusCode(StrEnum):
    """How a span went."""

    UNSET = "UNSET"
    OK = "OK"
    ERROR = "ERROR"


class SpanStatus(Struct, frozen=True):
    """A status code, and for an error what happened."""

    status_code: SpanStatusCode | str
    description: str = ""


class SpanLogLevel(IntEnum):
    """How much a span matters, for the verbosity filter of MLflow's UI."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


_LOG_LEVELS: Final = {int(level): level for level in SpanLogLevel}


class SpanEvent(Struct):
    """A moment within a span. `timestamp` is in nanoseconds since 1970, now where it is left out."""

    name: str
    timestamp: int = msgspec.field(default_factory=time.time_ns)
    attributes: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])

    @classmethod
    def from_exception(cls, exception: BaseException) -> "SpanEvent":
        """The event that records an exception, with its stack trace."""
        return cls(
            name="exception",
            attributes={
                "exception.message": values.text(exception),
                "exception.type": type(exception).__name__,
                "exception.stacktrace": stack_trace(exception),
            },
        )

    @classmethod
    def from_wire(cls, event: WireEvent) -> "SpanEvent":
        """The event as it can be read."""
        return cls(event.name, event.time_ns, values.decode(event.attributes))


class Link(Struct, frozen=True):
    """A pointer to a span, of this trace or another, by MLflow's trace id and hexadecimal span id."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] | None = None


class LinkLike(Protocol):
    """What a link must have: spanferry's Link, MLflow's, or one of the app's own."""

    @property
    def trace_id(self) -> str: ...
    @property
    def span_id(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, Any] | None: ...


class EventLike(Protocol):
    """What an event must have: spanferry's SpanEvent, MLflow's, or one of the app's own."""

    @property
    def name(self) -> str: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...


class StatusLike(Protocol):
    """What a status must have: spanferry's SpanStatus, or MLflow's."""

    @property
    def status_code(self) -> object: ...
    @property
    def description(self) -> str: ...


def stack_trace(exception: BaseException) -> str:
    """The exception and those that led to it, as Python prints them."""
    try:
        return values.clean("".join(traceback.format_exception(exception)).strip())
    except BaseException as error:  # noqa: BLE001  an exception's own text may raise
        let_through(error)
        return values.text(exception)


def event_to_wire(event: EventLike) -> WireEvent:
    """The event as it is sent. Raises whatever an event of the app's own raises."""
    return WireEvent(
        values.text(event.name),
        nanoseconds_of(event.timestamp) or time.time_ns(),
        values.encode(dict(event.attributes)),
    )


def link_to_wire(link: LinkLike) -> WireLink:
    """The link as it is sent. Raises ValueError and the like where its ids are not hexadecimal."""
    attributes = link.attributes
    return WireLink(
        int(link.trace_id.removeprefix("tr-"), 16).to_bytes(TRACE_ID_BYTES, "big"),
        int(link.span_id, 16).to_bytes(SPAN_ID_BYTES, "big"),
        values.encode(dict(attributes)) if attributes else b"{}",
    )


def link_from_wire(link: WireLink) -> Link:
    """The link as it can be read."""
    attributes: dict[str, Any] = values.decode(link.attributes)
    return Link(trace_id_text(link.trace_id), link.span_id.hex(), attributes or None)


def status_of(status: object) -> tuple[StatusCode, str] | None:
    """Code and message of a status, a code or a code's name, MLflow's too; None where it is none."""
    try:
        code = str(getattr(status, "status_code", status))
        message = getattr(status, "description", None) or None
    except BaseException as error:  # noqa: BLE001  whatever a user's object does
        let_through(error)
        return None
    known = StatusCode.__members__.get(code.rpartition(".")[2])
    if known is None:
        return None
    return known, values.text(message) if message is not None and known is StatusCode.ERROR else ""


def log_level_of(level: object) -> SpanLogLevel | None:
    """The level that a level, its number or its name means; None where it means none."""
    kind = type(level)
    if issubclass(kind, str):
        return SpanLogLevel.__members__.get(str.upper(str.strip(cast("str", level))))
    if issubclass(kind, int):
        return _LOG_LEVELS.get(int.__int__(cast("int", level)))
    return None


def nanoseconds_of(value: object) -> int | None:
    """A time that the wire can carry; None for anything else."""
    if type(value) not in {int, float}:
        return None
    time_ns = cast("int | float", value)
    return int(time_ns) if 0 < time_ns <= _NANOSECONDS_MAX else None
