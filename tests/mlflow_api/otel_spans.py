"""Which spans OpenTelemetry's SDK makes: there is one in every span of MLflow's own, none in a light one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import Span

__all__ = ["otel_spans"]


@contextmanager
def otel_spans() -> Iterator[list[str]]:
    """The names of those that start while the context lasts, in any thread."""
    names: list[str] = []
    start = Span.start

    def noted(span: Span, *args: Any, **kwargs: Any) -> None:
        names.append(span.name)
        start(span, *args, **kwargs)

    Span.start = noted
    try:
        yield names
    finally:
        Span.start = start
