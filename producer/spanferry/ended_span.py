"""A span that has ended, as it waits to be sent."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from spanferry.values import clean, text
from spanferry_schemas import Span, SpanEvent, SpanLink, StatusCode, encode_span, mlflow_keys

__all__ = [
    "SPAN_OVERHEAD_BYTES",
    "EndedSpan",
    "attributes_size",
    "level_of",
    "moments_size",
    "named",
    "names_size",
    "with_level",
]

_INFO_TYPES: Final = frozenset({"LLM", "CHAT_MODEL", "TOOL", "RETRIEVER", "AGENT", "EMBEDDING"})
"""Span types that MLflow's UI shows at its default verbosity."""

_INPUTS: Final = mlflow_keys.SPAN_INPUTS
_OUTPUTS: Final = mlflow_keys.SPAN_OUTPUTS
_LOG_LEVEL: Final = mlflow_keys.SPAN_LOG_LEVEL

SPAN_OVERHEAD_BYTES: Final = 240
"""What a span takes in memory beside its values, attributes, events and links. As the next three it is
for the buffer's account: what an app may fill is its memory, not what Kafka will get."""

_ATTRIBUTE_OVERHEAD_BYTES: Final = 128
"""The objects of its key and its value, and its place in a dict, but for their texts."""

_EVENT_OVERHEAD_BYTES: Final = 192
_LINK_OVERHEAD_BYTES: Final = 256

_DEBUG: Final = b"10"
_INFO: Final = b"20"


class EndedSpan(Struct, gc=False):
    """What is left of a span for the sender: values are JSON texts, the rest is encoded when it is sent.

    A Struct of its own that refers to nothing that refers to it, out of the garbage collector's sight:
    thousands of live spans that wait would be walked again and again, in the app's threads. What held
    the span while it was open is free for the next one.
    """

    span_id: bytes
    parent_id: bytes | None
    name: Any
    """Whatever the app has given, as is the type."""
    span_type: Any
    start_ns: int
    end_ns: int
    status: StatusCode
    message: str
    inputs: bytes | None
    outputs: bytes | None
    attributes: dict[str, bytes] | None
    """The others."""
    events: Sequence[SpanEvent]
    links: Sequence[SpanLink]

    @property
    def size(self) -> int:
        """About what it takes, in bytes."""
        size = SPAN_OVERHEAD_BYTES + names_size(self.name, self.span_type)
        size += len(self.inputs or b"") + len(self.outputs or b"")
        if self.attributes is not None:
            size += attributes_size(self.attributes)
        return size + len(self.message) + moments_size(self.events, self.links)

    def encoded(self, encode: Callable[[Span], bytes] = encode_span) -> bytes:
        """As `spanferry_schemas.encode_span` gives it. Never raises."""
        attributes = named(self.inputs, self.outputs, self.attributes)
        span_type = self.span_type
        if type(self.name) is str and type(span_type) is str:
            if _LOG_LEVEL not in attributes:
                attributes[_LOG_LEVEL] = _INFO if span_type in _INFO_TYPES else _DEBUG
            try:
                return encode(self._span(self.name, span_type, attributes))
            except UnicodeEncodeError:
                pass
        with_level(attributes, span_type)
        return encode(
            self._span(
                text(self.name),
                "" if self.span_type is None else text(self.span_type),
                {clean(key): value for key, value in attributes.items()},
            )
        )

    def _span(self, name: str, span_type: str, attributes: dict[str, bytes]) -> Span:
        return Span(
            self.span_id,
            self.parent_id,
            name,
            span_type,
            self.start_ns,
            self.end_ns,
            self.status,
            self.message,
            attributes,
            list(self.events) if self.events else [],
            list(self.links) if self.links else [],
        )


def names_size(name: Any, span_type: Any) -> int:
    """About what a span's name and type take, in bytes, whatever the app has given."""
    try:
        return len(name) + len(span_type)
    except Exception:  # noqa: BLE001  None, or something of which only the text is sent
        return sum(len(text(one)) for one in (name, span_type) if one is not None)


def attributes_size(attributes: dict[str, bytes]) -> int:
    """About what they take, in bytes. Another thread may be setting some meanwhile."""
    held = attributes.copy()
    size = len(held) * _ATTRIBUTE_OVERHEAD_BYTES
    return size + sum(map(len, held)) + sum(map(len, held.values()))


def moments_size(events: Sequence[SpanEvent], links: Sequence[SpanLink]) -> int:
    """About what a span's events and links take, in bytes."""
    size = len(events) * _EVENT_OVERHEAD_BYTES + len(links) * _LINK_OVERHEAD_BYTES
    size += sum(len(event.attributes) + len(event.name) for event in events)
    return size + sum(len(link.attributes) for link in links)


def named(
    inputs: bytes | None, outputs: bytes | None, others: dict[str, bytes] | None
) -> dict[str, bytes]:
    """All attributes of a span in one dict."""
    attributes: dict[str, bytes] = {}
    if inputs is not None:
        attributes[_INPUTS] = inputs
    if outputs is not None:
        attributes[_OUTPUTS] = outputs
    if others is not None:
        attributes.update(others)
    return attributes


def with_level(attributes: dict[str, bytes], span_type: object) -> dict[str, bytes]:
    """The same dict, with the log level that follows from the type where nobody has set one."""
    if _LOG_LEVEL not in attributes:
        attributes[_LOG_LEVEL] = level_of(span_type)
    return attributes


def level_of(span_type: object) -> bytes:
    """The log level that follows from the type, which may be whatever the app has given.

    As MLflow: what its UI shows is INFO.
    """
    return _INFO if issubclass(type(span_type), str) and span_type in _INFO_TYPES else _DEBUG
