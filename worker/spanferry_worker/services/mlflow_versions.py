"""In what those versions of MLflow differ whose rows are written in bulk, asked of the installed one's code.

Each of these has to hold for every version in mlflow_bulk.TESTED.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from mlflow.entities import Span, SpanType
from mlflow.tracing.otel import translation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind

import spanferry_schemas as wire

__all__ = ["KINDS", "OTEL_KINDS", "is_priced", "sanitize_attributes"]

_KIND_KEY: Final = "kind"
_AGENT: Final = json.dumps(SpanType.AGENT)


def _kind(kind: SpanKind) -> str:
    context = SpanContext(1, 1, is_remote=False)
    plain = Span(ReadableSpan("", context, start_time=1, attributes={}, kind=kind)).to_dict()
    name = plain.get(_KIND_KEY)
    return "" if name is None else f'"{_KIND_KEY}": {json.dumps(name)}, '


OTEL_KINDS: Final = {
    kind: SpanKind[kind.name] if kind else SpanKind.INTERNAL for kind in wire.SpanKind
}
"""OpenTelemetry's, by the wire's. UNSPECIFIED is INTERNAL, as to MLflow."""

KINDS: Final = {kind: _kind(otel) for kind, otel in OTEL_KINDS.items()}
"""What stands between a stored span's name and its start, by its kind: nothing before 3.18."""

sanitize_attributes: Final[Callable[[dict[str, Any]], dict[str, Any]]] = getattr(
    translation, "sanitize_attributes", dict
)
"""Attributes as they are stored: before 3.18 without the second of two layers of JSON."""

_PRICES_AGENTS: Final = (
    SpanType.AGENT not in translation.translate_span_when_storing.__code__.co_names
)
"""Before 3.18 the translation knows no type of span that it leaves out."""


def is_priced(span_type: str | None) -> bool:
    """Whether MLflow's store works out what a span costs that names none, by its type as a JSON text."""
    return _PRICES_AGENTS or span_type != _AGENT
