"""The wire's spans as MLflow's entities, and as what is stored of them."""

import json
from functools import lru_cache
from typing import Any, Final

from mlflow.entities import Link, Span
from mlflow.tracing.constant import SpanAttributeKey
from mlflow.tracing.utils.default_log_level import default_log_level_for_span_type
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode

import spanferry_schemas as wire
from spanferry_worker.services.mlflow_private import set_links
from spanferry_worker.services.mlflow_text import Texts, Written, escaped, loaded
from spanferry_worker.services.mlflow_versions import OTEL_KINDS

__all__ = ["SpanBuilder"]

_OWN_ATTRIBUTES: Final = frozenset({SpanAttributeKey.REQUEST_ID, SpanAttributeKey.SPAN_TYPE})
_SESSION_ATTRIBUTES: Final = frozenset({"session.id", "gen_ai.conversation.id", "user.id"})
_COUNTED_ATTRIBUTES: Final = frozenset({SpanAttributeKey.CHAT_USAGE, SpanAttributeKey.LLM_COST})
"""MLflow's store adds up what is in them, and refuses all spans of a call where it cannot."""
_BOUNDED_ATTRIBUTES: Final = _SESSION_ATTRIBUTES | _COUNTED_ATTRIBUTES
_ERROR_LEVEL: Final = 40
_TYPES_MAX: Final = 1_000
"""Types of spans whose JSON is remembered; most apps have ten."""
_KEYS_MAX: Final = 1_000
"""Names of attributes that are."""
_KEY_CHARS_MAX: Final = 250
"""Longer names are not remembered."""
_IDS_MAX: Final = 100
"""Of traces; one's spans come one after another."""
_NO_RESOURCE: Final = Resource.get_empty()


class SpanBuilder:
    """Builds spans that keep to one store's limits."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._remembered_key = lru_cache(_KEYS_MAX)(texts.clean)

    def entity(self, trace_id: bytes, span: wire.Span) -> Span:
        """One span. An ended span that is not an error is OK, as MLflow's SDK ends its spans.

        One without a type was made by another tracer, whose UNSET stays.
        """
        number = int.from_bytes(trace_id, "big")
        parent = span.parent_id
        status, message = self.status(span)
        entity = Span(
            ReadableSpan(
                name=self._texts.clean(span.name),
                context=_context(number, span.span_id),
                parent=_context(number, parent) if parent else None,
                kind=OTEL_KINDS[span.kind],
                start_time=span.start_ns,
                end_time=span.end_ns or None,
                attributes=self.attributes(wire.trace_id_text(trace_id), span),
                status=Status(StatusCode[status], message or None),
                resource=_NO_RESOURCE,
                events=[self._event(event) for event in span.events],
            )
        )
        set_links(entity, [self._link(link) for link in span.links])
        return entity

    def status(self, span: wire.Span) -> tuple[str, str]:
        """UNSET, OK or ERROR, and the message, which an error alone has."""
        if span.status is wire.StatusCode.ERROR:
            return "ERROR", self._texts.clean(span.status_message)
        if span.status is wire.StatusCode.UNSET and not (span.end_ns and span.span_type):
            return "UNSET", ""
        return "OK", ""

    def name(self, span: wire.Span) -> str:
        """As it is stored."""
        return self._texts.clean(span.name)

    def attributes(self, trace_id: str, span: wire.Span) -> dict[str, str]:
        """All of them as JSON texts, in Python's layout."""
        return {key: written.text for key, written in self.written(trace_id, span).items()}

    def written(self, trace_id: str, span: wire.Span) -> dict[str, Written]:
        """The same, as they stand in a span's own text."""
        texts = self._texts
        span_type = texts.cut("span type", span.span_type, texts.limits.span_type_chars)
        attributes = {
            SpanAttributeKey.REQUEST_ID: _id_text(trace_id),
            SpanAttributeKey.SPAN_TYPE: _type_text(span_type),
        }
        for key, raw in span.attributes.items():
            if key in _OWN_ATTRIBUTES:
                continue
            written = texts.written(raw)
            if key in _BOUNDED_ATTRIBUTES:
                written = self._bounded(key, written)
            short = len(key) <= _KEY_CHARS_MAX
            attributes[self._remembered_key(key) if short else self._texts.clean(key)] = written
        if SpanAttributeKey.LOG_LEVEL not in attributes and span_type:
            raised = any(event.name == "exception" for event in span.events)
            attributes[SpanAttributeKey.LOG_LEVEL] = _level_text("" if raised else span_type)
        return attributes

    def _bounded(self, key: str, written: Written) -> Written:
        """An attribute of which MLflow's store takes only so much."""
        text = written.text
        if key in _COUNTED_ATTRIBUTES:
            bounded = text if _is_counts(text) else self._texts.marked(text, "not numbers by name")
        elif len(text) > self._texts.limits.session_chars:
            bounded = self._short_text(key, text)
        else:
            bounded = text
        return written if bounded is text else escaped(bounded)

    def _short_text(self, key: str, text: str) -> str:
        """An attribute that MLflow copies into a column: cut to the column's width.

        Of what is no text MLflow copies the JSON text, so that becomes a text, cut as any other.
        """
        value = json.loads(text)
        value = value if isinstance(value, str) else text
        cut = self._texts.cut(f"span attribute {key}", value, self._texts.limits.session_chars)
        return json.dumps(cut, ensure_ascii=False)

    def _event(self, event: wire.SpanEvent) -> Event:
        attributes: Any = self._texts.json_object(event.attributes)
        return Event(self._texts.clean(event.name), attributes, event.time_ns)

    def _link(self, link: wire.SpanLink) -> Link:
        attributes = self._texts.json_object(link.attributes)
        make: Any = Link  # its base declares an abstract method that it never uses
        made: Link = make(wire.trace_id_text(link.trace_id), link.span_id.hex(), attributes or None)
        return made


@lru_cache(maxsize=_IDS_MAX)
def _id_text(trace_id: str) -> Written:
    return escaped(f'"{trace_id}"')


@lru_cache(maxsize=_TYPES_MAX)
def _type_text(span_type: str) -> Written:
    return escaped(json.dumps(span_type or None, ensure_ascii=False))


@lru_cache(maxsize=_TYPES_MAX)
def _level_text(span_type: str) -> Written:
    """Of a type; of none, an error's."""
    level = int(default_log_level_for_span_type(span_type)) if span_type else _ERROR_LEVEL
    return escaped(str(level))


def _is_counts(text: str) -> bool:
    value = loaded(text)
    if not isinstance(value, dict):
        return True  # ignored by MLflow
    return all(isinstance(number, (int, float)) for number in value.values())


def _context(trace_id: int, span_id: bytes) -> SpanContext:
    return SpanContext(trace_id, int.from_bytes(span_id, "big"), is_remote=False)
