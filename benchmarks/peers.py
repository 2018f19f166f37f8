"""SDKs of others, each as a user would set it up from its own documentation."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from benchmarks.recorders import Recorder, inputs_first, spans
from benchmarks.sdk import EXPERIMENT, Addresses

__all__ = ["LangSmith", "Langfuse", "OpenTelemetry"]


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

        return spans(start_span)

    def flush(self, timeout_s: float) -> bool:
        return self._provider.force_flush(int(timeout_s * 1000))

    def counters(self) -> dict[str, Any]:
        return {}


class Langfuse:
    """Langfuse's SDK, which exports over OTLP, default options."""

    _TYPES = {
        "AGENT": "agent",
        "RETRIEVER": "retriever",
        "TOOL": "tool",
        "CHAIN": "chain",
        "CHAT_MODEL": "generation",
    }

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        from langfuse import Langfuse

        self._langfuse = Langfuse(
            public_key="pk-lf-bench", secret_key="sk-lf-bench", host=addresses.stub
        )
        observe, types = self._langfuse.start_as_current_observation, self._TYPES

        def start(name: str, span_type: str, inputs: Any) -> Any:
            return observe(name=name, as_type=types[span_type], input=inputs)

        def finish(span: Any, outputs: Any) -> None:
            span.update(output=outputs)

        return {"with": inputs_first(start, finish)}

    def flush(self, timeout_s: float) -> bool:
        self._langfuse.flush()
        return True

    def counters(self) -> dict[str, Any]:
        return {}


class LangSmith:
    """LangSmith's SDK, default options. It wants dicts, so lists are wrapped, as its decorator does."""

    _TYPES = {
        "AGENT": "chain",
        "RETRIEVER": "retriever",
        "TOOL": "tool",
        "CHAIN": "chain",
        "CHAT_MODEL": "llm",
    }

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        os.environ["LANGSMITH_TRACING"] = "true"
        from langsmith import Client, trace

        client = self._client = Client(api_url=addresses.stub, api_key="bench")
        types = self._TYPES

        def start(name: str, span_type: str, inputs: Any) -> Any:
            return trace(
                name, types[span_type], inputs=inputs, client=client, project_name=EXPERIMENT
            )

        def finish(run: Any, outputs: Any) -> None:
            run.end(outputs=outputs if isinstance(outputs, dict) else {"output": outputs})

        return {"with": inputs_first(start, finish)}

    def flush(self, timeout_s: float) -> bool:
        self._client.flush()
        return True

    def counters(self) -> dict[str, Any]:
        return {}
