"""Puts the bridge in MLflow's place, and takes it out again."""
# pyright: reportPrivateUsage=false

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import mlflow
from mlflow.environment_variables import (
    MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT,
    MLFLOW_USE_DEFAULT_TRACER_PROVIDER,
)
from mlflow.tracing import provider
from mlflow.tracing.client import TracingClient
from mlflow.tracing.processor import base_mlflow
from mlflow.tracing.processor.base_mlflow import BaseMlflowSpanProcessor
from mlflow.tracing.processor.otel import OtelSpanProcessor
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracing.utils.otlp import should_export_otlp_metrics
from opentelemetry import context as otel_context
from opentelemetry.trace import NoOpTracerProvider

from spanferry import opening, spans
from spanferry.bridge import fluent, tracing_client
from spanferry.bridge.facts import dress
from spanferry.bridge.gate import GATE, disabled_here
from spanferry.bridge.light import LightNoOpSpan, LightSpan, before_end
from spanferry.bridge.manager import BridgedTraceManager
from spanferry.bridge.plain import BridgedProcessor
from spanferry.bridge.runtime_context import BridgedContext
from spanferry.bridge.timeouts import Timeouts
from spanferry.bridge.traces import OPEN, BridgedTrace
from spanferry.bridge.versions import check_version
from spanferry.bridge.waiting import FLUSH
from spanferry.log import logger, say_once

__all__ = ["hand_over_what_has_ended", "install", "uninstall"]

_KINDS: Final = opening.Kinds(LightSpan, LightNoOpSpan, BridgedTrace, dress, disabled_here)


class _Changes:
    """What was changed in MLflow, to be taken back in the opposite order."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module, class or object."""
        self._done.append((owner, name, getattr(owner, name), value))
        setattr(owner, name, value)

    def replace_everywhere(self, replacements: Iterable[tuple[Any, Any]]) -> None:
        """In every module that holds one under any name: functions are imported by name."""
        by_id = {id(before): value for before, value in replacements}
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("spanferry.bridge"):
                continue
            held: dict[str, Any] = getattr(module, "__dict__", {})
            for name, value in list(held.items()):
                if id(value) in by_id:
                    self.set(module, name, by_id[id(value)])

    def take_back(self) -> None:
        """Where nobody else has changed it since."""
        while self._done:
            owner, name, before, value = self._done.pop()
            if getattr(owner, name, None) is value:
                setattr(owner, name, before)


_retire: Final[Callable[[Any], None]] = getattr(
    base_mlflow, "retire_batch_processor", lambda _: None
)
"""MLflow 3.17's: what waits in the processor's queue is sent, and its thread ends."""

_changes: Final = _Changes()
_timeouts: Final = Timeouts()
os.register_at_fork(after_in_child=_timeouts.after_fork)
_installed = False


def install(*, accelerate: bool) -> None:
    """Have MLflow's API go through spanferry. Raises UnsupportedError, with nothing changed."""
    global _installed  # noqa: PLW0603  the process has one
    if _installed:
        uninstall()
    light = check_version(mlflow.__version__) and accelerate
    _installed = True
    _leave_the_provider()
    context = _change_the_provider()
    _changes.replace_everywhere((context, FLUSH, *(fluent.REPLACEMENTS if light else ())))
    for name, replacement in tracing_client.REPLACEMENTS:
        _changes.set(TracingClient, name, replacement)
    opening.install_kinds(_KINDS)
    spans.install_before_end(before_end)
    GATE.installed = light
    _timeouts.start()
    logger.debug("MLflow %s goes through spanferry, light=%s", mlflow.__version__, light)


def uninstall() -> None:
    """Give MLflow back as it was."""
    global _installed  # noqa: PLW0603  the process has one
    if not _installed:
        return
    _installed = False
    _timeouts.stop()
    GATE.installed = False
    GATE.forget()
    opening.install_kinds(opening.Kinds())
    spans.install_before_end(None)
    _leave_the_provider()
    _changes.take_back()


def hand_over_what_has_ended() -> None:
    """Hand over the spans that have ended of traces that go on."""
    for trace in OPEN.all():
        trace.hand_over_what_has_ended()


def _change_the_provider() -> tuple[Any, Any]:
    """Make its span processors ours; what is left to be replaced is its context."""
    make_mlflows = provider._get_mlflow_span_processor

    def make(tracking_uri: str) -> BridgedProcessor:
        return BridgedProcessor(
            lambda: make_mlflows(tracking_uri),
            export_metrics=should_export_otlp_metrics(),
        )

    _changes.set(provider, "_get_mlflow_span_processor", make)
    _changes.set(provider, "_get_span_processors", _looked_at(provider._get_span_processors))
    _bridge_the_global_context()
    manager = BridgedTraceManager(InMemoryTraceManager.get_instance())
    _changes.set(InMemoryTraceManager, "_instance", manager)
    before = provider.mlflow_runtime_context
    return before, BridgedContext(before, LightNoOpSpan)


def _looked_at(choose: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow's choice of span processors, when its tracer provider is made."""

    def choose_and_look(disabled: bool = False) -> Any:
        chosen = choose(disabled=disabled)
        _bridge_the_global_context()
        dual = MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT.get()
        if chosen and not dual and all(isinstance(one, OtelSpanProcessor) for one in chosen):
            say_once(
                "otlp",
                "spans of MLflow's API go to the OTLP endpoint of OTEL_EXPORTER_OTLP_TRACES_ENDPOINT "
                "or OTEL_EXPORTER_OTLP_ENDPOINT, as MLflow means it, and not through spanferry: set "
                "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT=true to have them in both places, or unset the "
                "endpoint",
            )
        return chosen

    return choose_and_look


def _bridge_the_global_context() -> None:
    """Where MLflow's spans are OpenTelemetry's global ones, what is current is so in its context."""
    before = otel_context._RUNTIME_CONTEXT
    if not MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get() and not isinstance(before, BridgedContext):
        _changes.set(otel_context, "_RUNTIME_CONTEXT", BridgedContext(before, LightNoOpSpan))


def _leave_the_provider() -> None:
    """Let the next span make MLflow's tracer provider anew; not where tracing is disabled."""
    GATE.forget()
    wrapper = provider.provider
    if not wrapper.once._done or isinstance(wrapper.get(), NoOpTracerProvider):
        return
    if MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get():
        wrapper.reset()
        return
    # OpenTelemetry's global one may be the app's, with processors of its own, which are to stay.
    holder: Any = getattr(wrapper.get(), "_active_span_processor", None)
    if holder is not None:
        processors = holder._span_processors
        leave = [one for one in processors if isinstance(one, BaseMlflowSpanProcessor)]
        with holder._lock:
            holder._span_processors = tuple(one for one in processors if one not in leave)
        for one in leave:
            _retire(one)
    wrapper.once._done = False
