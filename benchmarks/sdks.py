"""The SDKs under test, each as a user would set it up from its own documentation.

An adapter does nothing but call its SDK: the spans, their types and what they carry are the same
for all. Every one is imported by `start`, in a process of its own, because importing one changes
what the garbage collector has to walk for another.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from benchmarks.payloads import TracePayload

__all__ = ["SDKS", "Addresses", "Recorder", "Sdk"]

Recorder = Callable[[TracePayload], None]
"""Makes one trace of five spans and returns when the calling thread is free again."""

EXPERIMENT = "bench"


class Addresses(msgspec.Struct):
    """Where the back ends are: Kafka's bootstrap servers and the stub's base URL."""

    kafka: str
    topic: str
    stub: str


class Sdk(Protocol):
    """One SDK, from setting it up to emptying it."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        """Set the SDK up; recorders by style, "with" (context managers) and "decorated"."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything made so far has left the process; False where that failed."""
        ...

    def counters(self) -> dict[str, Any]:
        """What the SDK itself counts; empty where it counts nothing."""
        ...


class Spanferry:
    """spanferry into a real Kafka, default options."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        import spanferry

        self._spanferry = spanferry
        spanferry.enable(
            bootstrap_servers=addresses.kafka, experiment=EXPERIMENT, topic=addresses.topic
        )
        return _fluent(spanferry.start_span, spanferry.trace)

    def flush(self, timeout_s: float) -> bool:
        return self._spanferry.flush(timeout_s=timeout_s)

    def counters(self) -> dict[str, Any]:
        return msgspec.to_builtins(self._spanferry.stats())


class Mlflow:
    """MLflow's own asynchronous export over HTTP, default options."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_tracking_uri(addresses.stub)
        mlflow.set_experiment(EXPERIMENT)
        return _fluent(mlflow.start_span, mlflow.trace)

    def flush(self, timeout_s: float) -> bool:
        self._mlflow.flush_trace_async_logging()
        return True

    def counters(self) -> dict[str, Any]:
        return {}


class OpenTelemetry:
    """OpenTelemetry SDK, BatchSpanProcessor and OTLP over HTTP, default options.

    It knows no structured values, so the app dumps them into attributes itself; that is timed too,
    as it is part of what a span with inputs and outputs costs there.
    """

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider()
        exporter = OTLPSpanExporter(endpoint=f"{addresses.stub}/otel/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = self._provider.get_tracer("benchmarks")
        dumps = json.dumps

        class _Span:
            __slots__ = ("_span",)

            def __init__(self, span: Any) -> None:
                self._span = span

            def set_inputs(self, value: Any) -> None:
                self._span.set_attribute("input.value", dumps(value))

            def set_outputs(self, value: Any) -> None:
                self._span.set_attribute("output.value", dumps(value))

        @contextlib.contextmanager
        def start_span(name: str, span_type: str) -> Iterator[_Span]:
            with tracer.start_as_current_span(name) as span:
                span.set_attribute("openinference.span.kind", span_type)
                yield _Span(span)

        return {"with": _with_spans(start_span)}

    def flush(self, timeout_s: float) -> bool:
        return self._provider.force_flush(int(timeout_s * 1000))

    def counters(self) -> dict[str, Any]:
        return {}


class Untraced:
    """The same app without tracing: what the harness, the machine and the collector add by themselves."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        class _Span:
            def set_inputs(self, value: Any) -> None: ...

            def set_outputs(self, value: Any) -> None: ...

        span = _Span()

        def start_span(name: str, span_type: str) -> contextlib.nullcontext[_Span]:
            return contextlib.nullcontext(span)

        def trace(name: str, span_type: str) -> Callable[[Any], Any]:
            return lambda function: function

        return _fluent(start_span, trace)

    def flush(self, timeout_s: float) -> bool:
        return True

    def counters(self) -> dict[str, Any]:
        return {}


SDKS: dict[str, type[Sdk]] = {
    "spanferry": Spanferry,
    "mlflow": Mlflow,
    "otel": OpenTelemetry,
    "untraced": Untraced,
}


def _fluent(start_span: Any, trace: Any) -> dict[str, Recorder]:
    """Both styles of MLflow's fluent API, which spanferry shares."""
    return {"with": _with_spans(start_span), "decorated": _decorated(trace)}


def _with_spans(start_span: Any) -> Recorder:
    def record(payload: TracePayload) -> None:
        with start_span("answer", span_type="AGENT") as agent:
            agent.set_inputs(payload.agent[0])
            with start_span("retrieve", span_type="RETRIEVER") as retriever:
                retriever.set_inputs(payload.retriever[0])
                retriever.set_outputs(payload.retriever[1])
            with start_span("look_up", span_type="TOOL") as tool:
                tool.set_inputs(payload.tool[0])
                tool.set_outputs(payload.tool[1])
            with start_span("compose", span_type="CHAIN") as chain:
                chain.set_inputs(payload.chain[0])
                with start_span("model", span_type="CHAT_MODEL") as model:
                    model.set_inputs(payload.chat_model[0])
                    model.set_outputs(payload.chat_model[1])
                chain.set_outputs(payload.chain[1])
            agent.set_outputs(payload.agent[1])

    return record


def _decorated(trace: Any) -> Recorder:
    current: list[TracePayload] = []

    @trace(name="retrieve", span_type="RETRIEVER")
    def retrieve(request: Any) -> Any:
        return current[0].retriever[1]

    @trace(name="look_up", span_type="TOOL")
    def look_up(request: Any) -> Any:
        return current[0].tool[1]

    @trace(name="model", span_type="CHAT_MODEL")
    def model(request: Any) -> Any:
        return current[0].chat_model[1]

    @trace(name="compose", span_type="CHAIN")
    def compose(request: Any) -> Any:
        model(current[0].chat_model[0])
        return current[0].chain[1]

    @trace(name="answer", span_type="AGENT")
    def answer(request: Any) -> Any:
        retrieve(current[0].retriever[0])
        look_up(current[0].tool[0])
        compose(current[0].chain[0])
        return current[0].agent[1]

    def record(payload: TracePayload) -> None:
        current[:] = [payload]
        answer(payload.agent[0])

    return record
