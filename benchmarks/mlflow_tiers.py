"""MLflow's own API, four ways: as it is, with the cheapest exporter there can be, and on spanferry."""

import os
from typing import Any

import msgspec

from benchmarks.recorders import Recorder, fluent
from benchmarks.sdk import EXPERIMENT, Addresses, enable_spanferry

__all__ = [
    "BridgedMlflow",
    "NativeMlflow",
    "PlainlyBridgedMlflow",
    "PoppedMlflow",
    "StoredMlflow",
]


class NativeMlflow:
    """MLflow's own asynchronous export over HTTP, default options."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_tracking_uri(self._tracking_uri(addresses))
        mlflow.set_experiment(EXPERIMENT)
        return fluent(mlflow.start_span, mlflow.trace)

    def flush(self, timeout_s: float) -> bool:
        self._mlflow.flush_trace_async_logging()
        return True

    def counters(self) -> dict[str, Any]:
        return {}

    def _tracking_uri(self, addresses: Addresses) -> str:
        return addresses.stub


class StoredMlflow(NativeMlflow):
    """The same into a real `mlflow server` on SQLite, whose answers its threads wait for."""

    def _tracking_uri(self, addresses: Addresses) -> str:
        return addresses.server


class PoppedMlflow:
    """MLflow's own spans and processor, and an exporter that takes the ended trace and drops it.

    No exporter that is called where a span ends can cost the calling thread less. MLflow's default
    hands ended spans to a batching thread instead, which does the same work beside the caller.
    """

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        os.environ["MLFLOW_USE_BATCH_SPAN_PROCESSOR"] = "false"
        import mlflow
        from mlflow.tracing import provider
        from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
        from mlflow.tracing.trace_manager import InMemoryTraceManager
        from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

        counts = self._counts = {"popped": 0}
        manager = InMemoryTraceManager.get_instance()

        class _Popping(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                for span in spans:
                    if span.parent is None:
                        manager.pop_trace(span.context.trace_id)
                        counts["popped"] += 1
                return SpanExportResult.SUCCESS

        def make(tracking_uri: str) -> MlflowV3SpanProcessor:
            return MlflowV3SpanProcessor(
                span_exporter=_Popping(), export_metrics=False, use_batch_processor=False
            )

        provider._get_mlflow_span_processor = make  # noqa: SLF001  there is no public way
        mlflow.set_tracking_uri(addresses.stub)
        mlflow.set_experiment(EXPERIMENT)
        return fluent(mlflow.start_span, mlflow.trace)

    def flush(self, timeout_s: float) -> bool:
        return True

    def counters(self) -> dict[str, Any]:
        return dict(self._counts)


class BridgedMlflow:
    """MLflow's API once `spanferry.enable()` was called, default options."""

    accelerate = True

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        import mlflow

        self._spanferry = enable_spanferry(addresses, accelerate=self.accelerate)
        return fluent(mlflow.start_span, mlflow.trace)

    def flush(self, timeout_s: float) -> bool:
        return self._spanferry.flush(timeout_s=timeout_s)

    def counters(self) -> dict[str, Any]:
        return msgspec.to_builtins(self._spanferry.stats())


class PlainlyBridgedMlflow(BridgedMlflow):
    """The same without acceleration: MLflow makes its own spans, spanferry encodes and sends them."""

    accelerate = False
