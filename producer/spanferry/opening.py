"""Where a new span goes: under the current one, under another service's, or into a new trace."""

import os
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from spanferry import outlet as outlets
from spanferry import values
from spanferry.active_model import get_active_model
from spanferry.context import Current, RemoteParent, current
from spanferry.log import logger, say_once
from spanferry.parcel import Outlet
from spanferry.process import new_span_id, new_trace_id
from spanferry.scope import scope
from spanferry.settings import switched_off
from spanferry.spans import NO_OP_SPAN, NoOpSpan, Span
from spanferry.trace_state import LiveTrace, TraceFacts
from spanferry_schemas import mlflow_keys

__all__ = ["Kinds", "complain_not_enabled", "install_kinds", "open_span"]

_RATIO_VARIABLE: Final = "MLFLOW_TRACE_SAMPLING_RATIO"
_MODEL_VARIABLES: Final = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID")
_EXPERIMENT_ID: Final = "mlflow.experimentId"
"""MLflow keeps a destination that was given for one trace as an attribute of its root."""

_SAMPLING_BYTES: Final = 8
"""The end of the trace id decides, as in OpenTelemetry's TraceIdRatioBased."""

_SAMPLING_RANGE: Final = 2.0**64


class _Defaults(Struct, frozen=True):
    """What new traces take from MLflow's environment variables; read once for every `enable()`."""

    outlet: Outlet
    ratio: float
    model_id: str | None


class Dress(Protocol):
    """`experiment_given`: it was chosen for this very trace."""

    def __call__(self, facts: TraceFacts, *, experiment_given: bool) -> None: ...


class Kinds(Struct, frozen=True):
    """What is made where a span or a trace starts."""

    span: type[Span] = Span
    no_op: type[NoOpSpan] = NoOpSpan
    trace: type[LiveTrace] = LiveTrace
    dress: Dress | None = None
    """Gives a new trace what else holds for it. What it raises loses the trace."""
    silenced: Callable[[], bool] | None = None
    """Whether nothing is to be recorded here."""


_defaults: _Defaults | None = None
_complained = False
_kinds = Kinds()
_span_kind: type[Span] = Span
_silenced: Callable[[], bool] | None = None


def install_kinds(kinds: Kinds) -> None:
    """Have other spans and traces made from now on."""
    global _kinds, _span_kind, _silenced
    _kinds, _span_kind, _silenced = kinds, kinds.span, kinds.silenced


def open_span(
    name: str,
    span_type: str,
    parent: Current = None,
    start_ns: int | None = None,
    experiment_id: str | None = None,
    ratio: float | None = None,
) -> Span:
    """A started span, or one that only stands in for it. Never raises; does not make it current.

    `parent` may be another service's span; None means the current one, whosever it is.
    `experiment_id` and `ratio` hold for a new trace only.
    """
    try:
        inside = scope.get()
        if (inside is not None and inside.enabled is False) or (
            _silenced is not None and _silenced()
        ):
            return NO_OP_SPAN
        around = current.get() if parent is None else parent
        if around is None or isinstance(around, RemoteParent):
            return _open_root(name, span_type, around, start_ns, experiment_id, ratio)
        if type(around) is not _span_kind and isinstance(around, NoOpSpan):
            return around
        trace = around.trace
        if trace is None:  # the span of a tracer that does not go through us
            return _open_root(name, span_type, None, start_ns, experiment_id, ratio)
        if experiment_id is not None:
            say_once("destination", "a destination is for root spans only and is ignored")
        return _span_kind(trace, around.span_id_bytes, name, span_type, start_ns, False)
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        say_once("span-start", "a span could not be started: %s", values.text(error))
        return NO_OP_SPAN


def _open_root(
    name: str,
    span_type: str,
    remote: RemoteParent | None,
    start_ns: int | None,
    experiment_id: str | None,
    ratio: float | None,
) -> Span:
    outlet = outlets.current()
    if outlet is None:
        complain_not_enabled()
        return NO_OP_SPAN
    defaults = _defaults if _defaults is not None and _defaults.outlet is outlet else _read(outlet)
    if remote is not None:
        if not remote.sampled:
            return _kinds.no_op(remote.trace_id, remote.span_id)
        trace = _kinds.trace(remote.trace_id, outlet, TraceFacts(), remote=True)
        return _span_kind(trace, remote.span_id, name, span_type, start_ns, True)
    trace_id = new_trace_id()
    ratio = defaults.ratio if ratio is None else ratio
    if ratio < 1.0 and not _sampled(trace_id, ratio):
        return _kinds.no_op(trace_id, new_span_id())
    facts = TraceFacts(tags={mlflow_keys.TAG_TRACE_NAME: values.text(name)})
    if experiment_id is not None:
        facts.experiment_id = values.text(experiment_id)
    else:
        settings = outlet.settings
        facts.experiment_id, facts.experiment = settings.experiment_id, settings.experiment
    _link_model(facts, defaults.model_id)
    inside = scope.get()
    if inside is not None:
        inside.dress(facts)
    if _kinds.dress is not None:
        _kinds.dress(facts, experiment_given=experiment_id is not None)
    trace = _kinds.trace(trace_id, outlet, facts, remote=False)
    span = _span_kind(trace, None, name, span_type, start_ns, True)
    if experiment_id is not None:
        span.set_attribute(_EXPERIMENT_ID, experiment_id)
    return span


def complain_not_enabled() -> None:
    """Say once, and what to do, that nothing is recorded; not where the app wants it so."""
    global _complained  # noqa: PLW0603  the process has one
    if _complained:
        return
    _complained = True
    if not switched_off(os.environ):
        logger.warning(
            "spanferry is not enabled, so nothing is traced: call spanferry.enable("
            "bootstrap_servers='host:9092') when the app starts, or set SPANFERRY_ENABLED=false",
        )


def _sampled(trace_id: bytes, ratio: float) -> bool:
    """Whether a trace is recorded where not all are."""
    return int.from_bytes(trace_id[-_SAMPLING_BYTES:], "big") < round(ratio * _SAMPLING_RANGE)


def _link_model(facts: TraceFacts, model_id: str | None) -> None:
    model = get_active_model()
    if model is not None and model.model_id is None:
        facts.active_model, facts.model_params = model.name, model.params
        return
    model_id = model_id if model is None else model.model_id
    if model_id is not None:
        facts.metadata[mlflow_keys.METADATA_MODEL_ID] = model_id


def _read(outlet: Outlet) -> _Defaults:
    global _defaults  # noqa: PLW0603  the process has one
    text = os.environ.get(_RATIO_VARIABLE, "").strip() or "1"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        say_once("ratio", "%s=%s is not between 0 and 1: all is traced", _RATIO_VARIABLE, text)
        ratio = 1.0
    models = (os.environ.get(variable) for variable in _MODEL_VARIABLES)
    _defaults = _Defaults(outlet, ratio, next(filter(None, models), None))
    return _defaults
