"""Spans of both APIs in one another: who made them, and which traces were captured."""

import json
import sys
from collections.abc import Callable
from typing import Any

import mlflow
from mlflow.tracing import provider
from opentelemetry import metrics
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import spanferry
from spanferry.settings import Settings
from spanferry.testing import CapturedTrace, _fragment, capture

made: dict[str, Any] = {}
"""Each span of MLflow's API by its name."""


class Sees(SpanProcessor):
    """A span processor of the app's own."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span.name)


def mlflow_on_top() -> None:
    with (
        mlflow.start_span("a") as made["a"],
        spanferry.start_span("b"),
        mlflow.start_span("c") as made["c"],
    ):
        pass


def spanferry_on_top() -> None:
    with spanferry.start_span("d"), mlflow.start_span("e") as made["e"], spanferry.start_span("f"):
        pass


def decorated() -> None:
    @mlflow.trace
    def g() -> None:
        made["g"] = mlflow.get_current_active_span()
        with spanferry.start_span("h"):
            pass

    g()


def without_context() -> None:
    made["i"] = root = mlflow.start_span_no_context("i")
    made["j"] = mlflow.start_span_no_context("j", parent_span=root)
    made["j"].end()
    root.end()


def beside_opentelemetry() -> None:
    with mlflow.start_span("k") as made["k"]:
        seen = otel.get_current_span().get_span_context().span_id
        made["seen"] = made["k"].span_id == f"{seen:016x}"


PROGRAMS: list[Callable[[], None]] = [
    mlflow_on_top,
    spanferry_on_top,
    decorated,
    without_context,
    beside_opentelemetry,
]


def tree(trace: CapturedTrace) -> dict[str, str | None]:
    """Every span's parent, by names."""
    names = {span.span_id: span.name for span in trace.spans}
    return {span.name: span.parent_id and names.get(span.parent_id) for span in trace.spans}


def names_as_sent(captured: capture) -> list[str]:
    """Of every span as often as it was handed over."""
    return [span.name for parcel in captured.parcels for span in _fragment(parcel).spans]


def flush_exports() -> None:
    """What the OTLP exporters hold goes out now."""
    for one in (provider.provider.get(), metrics.get_meter_provider()):
        flush = getattr(one, "force_flush", None)
        if flush is not None:
            flush()


def main() -> None:
    options = json.loads(sys.argv[1])
    own = Sees()
    if options.get("own_provider"):
        otel.set_tracer_provider(TracerProvider())
        otel.get_tracer_provider().add_span_processor(own)
        with mlflow.start_span("before"):
            pass
    settings = Settings(bootstrap_servers="captured.invalid:9092", **options.get("settings", {}))
    with capture(settings) as captured:
        if options.get("own_processor"):
            with mlflow.start_span("before it"):
                pass
            captured.clear()
            provider.provider.get().add_span_processor(own)
        for program in PROGRAMS:
            program()
        flush_exports()
    otel.get_tracer("app").start_span("after").end()
    seen = made.pop("seen")
    account = {
        "kinds": sorted({type(one).__module__ for one in made.values()}),
        "traces": [tree(trace) for trace in captured.traces],
        "complete": [trace.complete for trace in captured.traces],
        "spans": sorted(names_as_sent(captured)),
        "ends": sum(parcel.end is not None for parcel in captured.parcels),
        "seen_by_opentelemetry": seen,
        "own_processor": own.ended,
    }
    print(json.dumps(account))


if __name__ == "__main__":
    main()
