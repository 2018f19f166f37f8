"""Whether MLflow's API may be served by light spans here and now."""
# pyright: reportPrivateUsage=false

from typing import Any, Final

from mlflow import environment_variables
from mlflow.environment_variables import (
    MLFLOW_TRACE_SAMPLING_RATIO,
    MLFLOW_USE_DEFAULT_TRACER_PROVIDER,
)
from mlflow.tracing import provider
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from mlflow.tracing.sampling import _SAMPLING_RATIO_OVERRIDE
from mlflow.tracing.utils import maybe_get_request_id
from mlflow.tracking import fluent
from msgspec.structs import replace
from opentelemetry.sdk.trace import TracerProvider

from spanferry import values
from spanferry.bridge.facts import nothing_is_set, prediction_context
from spanferry.bridge.plain import BridgedProcessor
from spanferry.process import PROCESS
from spanferry.trace_state import TraceDefaults

__all__ = ["GATE", "Gate", "disabled_here", "ratio_here"]


class Gate:
    """Looks at MLflow's tracer provider again whenever there is another one.

    Light spans are what MLflow would have made if the only processor of its provider is ours. Where
    there are others (OTLP export, Unity Catalog, an instrumentation's own), or none because tracing
    is disabled, MLflow makes the spans itself.
    """

    __slots__ = (
        "_chosen",
        "_holder",
        "_is_light",
        "_processors",
        "_provider",
        "installed",
        "ratio",
    )

    def __init__(self) -> None:
        self.installed = False
        """Whether the bridge is there at all, with light spans."""
        self.ratio = 1.0
        self._provider: Any = None
        """MLflow's tracer provider when somebody looked last."""
        self._holder: Any = None
        self._processors: Any = None
        self._is_light = False
        """Whether light spans may stand for its spans."""
        self._chosen: tuple[TraceDefaults, str, TraceDefaults] | None = None
        """The plain defaults, the experiment of `set_experiment`, and both in one."""

    def is_light(self) -> bool:
        """For a span under another one: whether tracing is as it was when that was started."""
        return self._is_light and provider.provider._isolated_tracer_provider is self._provider

    def is_light_for_root(self) -> bool:
        """For a span that starts a trace."""
        if not self.installed:
            return False
        if (
            self._provider is None
            or provider.provider._isolated_tracer_provider is not self._provider
            or self._holder._span_processors is not self._processors
        ):
            self._look()
        if not self._is_light:
            return False
        return prediction_context() is None or not maybe_get_request_id(is_evaluate=True)

    def defaults_for_root(self) -> TraceDefaults | None:
        """What a trace takes that starts here, where nothing but experiment and name is to be said of
        it; None where there is more to find out."""
        plain: TraceDefaults | None = PROCESS.plain
        if (
            plain is None
            or self.ratio < 1.0
            or not self._is_light
            or provider.provider._isolated_tracer_provider is not self._provider
            or self._holder._span_processors is not self._processors
            or _USER_TRACE_CONTEXT.get() is not None
            or _SAMPLING_RATIO_OVERRIDE.get() is not None
            or prediction_context() is not None
            or not nothing_is_set()
        ):
            return None
        chosen = fluent._active_experiment_id
        if chosen is None:
            return plain
        known = self._chosen
        if known is None or known[0] is not plain or known[1] != chosen:
            self._chosen = known = plain, chosen, replace(plain, experiment_id=values.text(chosen))
        return known[2]

    def forget(self) -> None:
        """The tracer provider is about to change."""
        self._provider = None
        self._is_light = False

    def _look(self) -> None:
        self.forget()
        if not MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get():
            return
        provider._get_tracer(__name__)  # makes the provider where there is none
        found: Any = provider.provider.get()
        if not isinstance(found, TracerProvider):
            return
        self._holder = found._active_span_processor
        processors = self._holder._span_processors
        self._is_light = (
            len(processors) == 1
            and isinstance(processors[0], BridgedProcessor)
            and not processors[0].exports_metrics
            and not _propagates_to_otel()
        )
        ratio = MLFLOW_TRACE_SAMPLING_RATIO.get()
        self.ratio = ratio if ratio is not None and 0.0 <= ratio <= 1.0 else 1.0
        self._processors = processors
        self._provider = found


GATE: Final = Gate()


def _propagates_to_otel() -> bool:
    """Whether MLflow's current span is to be OpenTelemetry's too; MLflow can do so since 3.15."""
    variable = getattr(environment_variables, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", None)
    return variable is not None and bool(variable.get())


def disabled_here() -> bool:
    """Whether `mlflow.tracing.context(enabled=False)` is in force."""
    context = _USER_TRACE_CONTEXT.get()
    return context is not None and context.enabled is False


def ratio_here() -> float:
    """The part of the traces that start here which is kept."""
    override: float | None = _SAMPLING_RATIO_OVERRIDE.get()
    return GATE.ratio if override is None else override
