"""The ways to trace that are compared, and where each sends what it has recorded.

An adapter does nothing but call its SDK: the spans, their types and what they carry are the same
for all. Every one is imported by `start`, in a process of its own, because importing one changes
what the garbage collector has to walk for another.
"""

import contextlib
import importlib.util
from typing import Any

import msgspec

from benchmarks.mlflow_tiers import (
    BridgedMlflow,
    NativeMlflow,
    PlainlyBridgedMlflow,
    PoppedMlflow,
    StoredMlflow,
)
from benchmarks.peers import Langfuse, LangSmith, OpenTelemetry
from benchmarks.recorders import Recorder, fluent
from benchmarks.sdk import Addresses, Sdk, enable_spanferry

__all__ = ["SDKS", "TIERS", "Tier", "missing_package"]


class Spanferry:
    """spanferry's own API into a real Kafka, default options."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        self._spanferry = enable_spanferry(addresses)
        return fluent(self._spanferry.start_span, self._spanferry.trace)

    def flush(self, timeout_s: float) -> bool:
        return self._spanferry.flush(timeout_s=timeout_s)

    def counters(self) -> dict[str, Any]:
        return msgspec.to_builtins(self._spanferry.stats())


class Untraced:
    """The same app without tracing: what the harness, the machine and the collector add by themselves."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        class _Span:
            def set_inputs(self, value: Any) -> None: ...

            def set_outputs(self, value: Any) -> None: ...

        span = _Span()

        def start_span(name: str, span_type: str) -> contextlib.nullcontext[_Span]:
            return contextlib.nullcontext(span)

        def trace(name: str, span_type: str) -> Any:
            return lambda function: function

        return fluent(start_span, trace)

    def flush(self, timeout_s: float) -> bool:
        return True

    def counters(self) -> dict[str, Any]:
        return {}


class UntracedMlflow(Untraced):
    """The same with MLflow imported, as an app has it that uses MLflow's API and has tracing off.

    Its 110,000 objects are the garbage collector's business in every full collection.
    """

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        importlib.import_module("mlflow")
        return super().start(addresses)


class Tier(msgspec.Struct, frozen=True):
    """One of the ways, as the tables and plots name it."""

    label: str
    sdk: type[Sdk]
    back_end: str
    """kafka: acknowledged, by spanferry's own count; stub: what the stub saw whole; server: what
    MLflow's store holds whole; popped: what the exporter was given; none: nothing is sent."""
    package: str | None = None
    """A peer's distribution, which need not be installed."""


TIERS: dict[str, Tier] = {
    "spanferry": Tier("spanferry API", Spanferry, "kafka"),
    "bridge": Tier("MLflow API on spanferry", BridgedMlflow, "kafka"),
    "bridge-plain": Tier("MLflow API on spanferry, plain", PlainlyBridgedMlflow, "kafka"),
    "mlflow-pop": Tier("MLflow API, exporter only pops", PoppedMlflow, "popped"),
    "mlflow": Tier("MLflow, async export to a stub", NativeMlflow, "stub"),
    "mlflow-server": Tier("MLflow, async export to its server", StoredMlflow, "server"),
    "otel": Tier("OpenTelemetry SDK, batch OTLP", OpenTelemetry, "stub"),
    "langfuse": Tier("Langfuse", Langfuse, "stub", "langfuse"),
    "langsmith": Tier("LangSmith", LangSmith, "stub", "langsmith"),
    "untraced": Tier("no tracing", Untraced, "none"),
    "untraced-mlflow": Tier("no tracing, MLflow imported", UntracedMlflow, "none"),
}
"""By the name that results use, in the order of the tables."""

SDKS: dict[str, type[Sdk]] = {name: tier.sdk for name, tier in TIERS.items()}


def missing_package(tier: str) -> str | None:
    """The package that this tier needs and that is not installed."""
    package = TIERS[tier].package
    return package if package and importlib.util.find_spec(package) is None else None
