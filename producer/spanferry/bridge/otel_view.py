"""A span of ours as OpenTelemetry's API sees it: a parent for other tracers, and readable."""
# pyright: reportPrivateUsage=false

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from spanferry import spans, values
from spanferry_schemas import mlflow_keys

__all__ = ["OtelView", "context_of", "no_op_otel_span", "readable"]

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_NO_RESOURCE: Final = Resource.get_empty()


def context_of(
    trace_id: bytes, span_id: bytes, *, sampled: bool = True, remote: bool = False
) -> SpanContext:
    """The ids as OpenTelemetry has them."""
    return SpanContext(
        int.from_bytes(trace_id, "big"),
        int.from_bytes(span_id, "big"),
        is_remote=remote,
        trace_flags=_SAMPLED if sampled else _NOT_SAMPLED,
    )


def no_op_otel_span(trace_id: bytes, span_id: bytes) -> NonRecordingSpan:
    """The span of a trace that is not sampled; of no trace at all where the ids are zero."""
    return NonRecordingSpan(context_of(trace_id, span_id, sampled=False))


class _Readable(Span):
    """What OpenTelemetry's spans let one read; it holds nothing itself."""

    def __init__(self, live: Any) -> None:
        self.live = live
        """The span of ours."""

    def get_span_context(self) -> SpanContext:
        """Trace id and span id."""
        return context_of(self.live.trace_id_bytes, self.live.span_id_bytes)

    @property
    def context(self) -> SpanContext:
        """Trace id and span id."""
        return self.get_span_context()

    _context = context

    @property
    def parent(self) -> SpanContext | None:
        """The parent's ids; None for a root."""
        parent_id: bytes | None = self.live._parent_id
        return None if parent_id is None else context_of(self.live.trace_id_bytes, parent_id)

    _parent = parent

    @property
    def name(self) -> str:
        """The span's name."""
        return values.text(self.live.name)

    @name.setter
    def name(self, name: str) -> None:
        self.live.rename(name)

    _name = name

    @property
    def start_time(self) -> int:
        """Nanoseconds since 1970."""
        return int(self.live._start_ns)

    _start_time = start_time

    @property
    def end_time(self) -> int | None:
        """Nanoseconds since 1970; None while the span is open."""
        end_ns: int | None = self.live._end_ns
        return end_ns

    _end_time = end_time

    @property
    def attributes(self) -> dict[str, str]:
        """Every value as a JSON text, as MLflow keeps them in OpenTelemetry's spans."""
        own: dict[str, bytes] = self.live.encoded_attributes()
        return {
            mlflow_keys.REQUEST_ID: json.dumps(self.live.trace_id),
            mlflow_keys.SPAN_TYPE: json.dumps(self.live.span_type, ensure_ascii=False),
        } | {key: value.decode("utf-8", "replace") for key, value in own.items()}

    _attributes = attributes

    @property
    def events(self) -> list[Event]:
        """In the order in which they were added."""
        return [Event(e.name, dict(e.attributes), e.timestamp) for e in self.live.events]

    @property
    def links(self) -> list[Link]:
        """In the order in which they were added."""
        return [
            Link(context_of(link.trace_id, link.span_id), values.decode(link.attributes))
            for link in self.live._links
        ]

    @property
    def status(self) -> Status:
        """How it went."""
        code = StatusCode[self.live._status.name]
        return Status(code, self.live._message if code is StatusCode.ERROR else None)

    @property
    def kind(self) -> SpanKind:
        """MLflow's own spans have no other."""
        return SpanKind.INTERNAL

    @property
    def resource(self) -> Resource:
        """None of its own."""
        return _NO_RESOURCE

    def is_recording(self) -> bool:
        """Whether it is still open."""
        return self.live._end_ns is None


class OtelView(_Readable):
    """A span of ours for OpenTelemetry's API; everything is written to `live`."""

    def set_attribute(self, key: str, value: Any) -> None:
        """One attribute: a JSON text, as MLflow sets them, or a plain value."""
        if isinstance(value, str) and key.startswith("mlflow."):
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        self.live.set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """A moment."""
        moment = time.time_ns() if timestamp is None else timestamp
        self.live.add_event(spans.SpanEvent(name, moment, dict(attributes or {})))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """A pointer to another span."""
        trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        self.live.add_link(spans.Link(trace_id, span_id, dict(attributes or {}) or None))

    def update_name(self, name: str) -> None:
        """Another name."""
        self.live.rename(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """How it went: OpenTelemetry's Status or StatusCode."""
        code = getattr(status, "status_code", status)
        text = getattr(status, "description", description) or ""
        self.live.set_status(spans.SpanStatus(code.name, text))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002  OpenTelemetry's signature
    ) -> None:
        """An event with the stack trace; the status stays, as in OpenTelemetry."""
        event = spans.SpanEvent.from_exception(exception)
        self.add_event(event.name, {**event.attributes, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span."""
        self.live.end(end_time_ns=end_time)


def readable(view: OtelView) -> ReadableSpan:
    """A copy that does not change any more."""
    return ReadableSpan(
        name=view.name,
        context=view.context,
        parent=view.parent,
        resource=_NO_RESOURCE,
        attributes=view.attributes,
        events=view.events,
        links=view.links,
        kind=view.kind,
        status=view.status,
        start_time=view.start_time,
        end_time=view.end_time,
    )
