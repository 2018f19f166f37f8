"""Where a new span goes: under the current one, under another service's, or into a new trace."""

import os
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final, Protocol

from msgspec import Struct

from spanferry import outlet as outlets
from spanferry.active_model import get_active_model
from spanferry.context import Current, RemoteParent, current
from spanferry.log import logger, say_once
from spanferry.parcel import Outlet
from spanferry.process import PROCESS, new_span_id, new_trace_id, read_clock
from spanferry.scope import scope
from spanferry.settings import switched_off
from spanferry.spans import NO_OP_SPAN, NoOpSpan, Span
from spanferry.trace_state import LiveTrace, TraceDefaults
from spanferry.values import text
from spanferry.watching import watch
from spanferry_schemas import TracePart, mlflow_keys
from spanferry_schemas.record import SAMPLED_UPSTREAM

__all__ = [
    "Kinds",
    "complain_not_enabled",
    "dress_with_ours",
    "expect_no_traces",
    "install_kinds",
    "makes_plain_spans",
    "new_trace",
    "not_started",
    "open_span",
    "open_trace",
]

_RATIO_VARIABLE: Final = "MLFLOW_TRACE_SAMPLING_RATIO"
_MODEL_VARIABLES: Final = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID")
_TRACE_NAME: Final = mlflow_keys.TAG_TRACE_NAME
_EXPERIMENT_ID: Final = "mlflow.experimentId"
"""MLflow keeps a destination that was given for one trace as an attribute of its root."""

_SAMPLING_BYTES: Final = 8
"""The end of the trace id decides, as in OpenTelemetry's TraceIdRatioBased."""

_SAMPLING_RANGE: Final = 2.0**64


class Dress(Protocol):
    """`experiment_given`: it was chosen for this very trace."""

    def __call__(self, facts: TracePart, *, experiment_given: bool) -> None: ...


class Kinds(Struct, frozen=True):
    """What is made where a span or a trace starts."""

    span: type[Span] = Span
    no_op: type[NoOpSpan] = NoOpSpan
    trace: type[LiveTrace] = LiveTrace
    dress: Dress | None = None
    """Gives a new trace what else holds for it. What it raises loses the trace."""
    silenced: Callable[[], bool] | None = None
    """Whether nothing is to be recorded here."""


_defaults: TraceDefaults | None = None
_complained = False
_kinds = Kinds()
_span_kind: type[Span] = Span
_trace_kind: type[LiveTrace] = LiveTrace
_silenced: Callable[[], bool] | None = None


def install_kinds(kinds: Kinds) -> None:
    """Have other spans and traces made from now on."""
    global _kinds, _span_kind, _trace_kind, _silenced
    _kinds, _silenced = kinds, kinds.silenced
    _span_kind, _trace_kind = kinds.span, kinds.trace
    PROCESS.bridged = kinds.dress is not None
    PROCESS.detours = PROCESS.bridged or PROCESS.scopes
    PROCESS.plain = None


def open_span(  # noqa: PLR0913, PLR0917  a span has that many sides
    name: str,
    span_type: str,
    parent: Current = None,
    start_ns: int | None = None,
    experiment_id: str | None = None,
    ratio: float | None = None,
    into: Span | None = None,
) -> Span:
    """A started span, or one that only stands in for it. Never raises; does not make it current.

    `parent` may be another service's span; None means the current one, whosever it is.
    `experiment_id` and `ratio` hold for a new trace only. `into` is a span that has not begun, with
    its name and type: that one is started instead of a new one.
    """
    try:
        if PROCESS.detours and is_silent():
            return NO_OP_SPAN
        around = current.get() if parent is None else parent
        if isinstance(around, NoOpSpan):
            return around
        if around is None or isinstance(around, RemoteParent) or around.trace is None:
            remote = around if isinstance(around, RemoteParent) else None
            return open_root(name, span_type, remote, start_ns, experiment_id, ratio, into)
        if experiment_id is not None:
            say_once("destination", "a destination is for root spans only and is ignored")
        trace, parent_id = around.trace, around.span_id_bytes
        since_ns = 0 if trace.account is None else perf_counter_ns()
        if into is None:
            into = _span_kind(trace, parent_id, name, span_type, start_ns, False)
        else:
            into.begin(trace, parent_id, start_ns, False)
        if since_ns:
            watch(into, since_ns)
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        return not_started(error)
    return into


def open_root(  # noqa: PLR0913, PLR0917  as open_span
    name: str,
    span_type: str,
    remote: RemoteParent | None,
    start_ns: int | None = None,
    experiment_id: str | None = None,
    ratio: float | None = None,
    into: Span | None = None,
) -> Span:
    """A new trace's root, or the first span here under another service's. May raise."""
    trace = open_trace(name, remote, experiment_id, ratio)
    if isinstance(trace, NoOpSpan):
        return trace
    parent_id = None if remote is None else remote.span_id
    if into is None:
        into = _span_kind(trace, parent_id, name, span_type, start_ns, True)
    else:
        into.begin(trace, parent_id, start_ns, True)
    if trace.account is not None:
        watch(into, trace.account.since_ns)
    if experiment_id is not None and remote is None:
        into.set_attribute(_EXPERIMENT_ID, experiment_id)
    return into


def open_trace(  # noqa: C901  in one piece: see `_Process`
    name: str,
    remote: RemoteParent | None = None,
    experiment_id: str | None = None,
    ratio: float | None = None,
) -> LiveTrace | NoOpSpan:
    """A new trace, or this process's part of another service's. May raise.

    Where nothing is to be recorded it is the span that stands in for the root.
    """
    outlet = outlets.installed
    if outlet is None:
        complain_not_enabled()
        return NO_OP_SPAN
    defaults = _defaults
    if defaults is None or defaults.outlet is not outlet:
        defaults = _defaults_of(outlet)
    if remote is None:
        trace_id = new_trace_id()
        if ratio is None:
            ratio = defaults.ratio
        if ratio < 1.0 and not _sampled(trace_id, ratio):
            return _kinds.no_op(trace_id, new_span_id())
        tags = {_TRACE_NAME: name if type(name) is str and name.isascii() else text(name)}
        facts = TracePart(defaults.experiment_id, defaults.experiment, tags=tags)
        if ratio < 1.0:
            facts.metadata[SAMPLED_UPSTREAM] = f"p:{ratio:.12g}"
        if experiment_id is not None:
            facts.experiment_id, facts.experiment = text(experiment_id), None
        if PROCESS.models or PROCESS.scopes or defaults.model_id is not None:
            dress_with_ours(facts, defaults.model_id)
        if _kinds.dress is not None:
            _kinds.dress(facts, experiment_given=experiment_id is not None)
        if PROCESS.plain is None:
            _learn(defaults)
    elif remote.sampled:
        said = {SAMPLED_UPSTREAM: remote.upstream} if remote.upstream else {}
        trace_id, facts = remote.trace_id, TracePart(metadata=said)
    else:
        return _kinds.no_op(remote.trace_id, remote.span_id)
    return new_trace(trace_id, outlet, facts, remote=remote is not None)


def not_started(error: Exception) -> NoOpSpan:
    """What an app gets instead of a span that could not be started, with a word in the log."""
    say_once("span-start", "a span could not be started: %s", text(error))
    return NO_OP_SPAN


def makes_plain_spans() -> bool:
    """Whether the spans made here are spanferry's own, and no others stand for them."""
    return _span_kind is Span


def new_trace(trace_id: bytes, outlet: Outlet, facts: TracePart, *, remote: bool) -> LiveTrace:
    """A trace that begins now."""
    defaults = _defaults_of(outlet)
    if not PROCESS.clock_followed:
        read_clock()
    since_ns = perf_counter_ns()
    now_ns = PROCESS.clock_ns + since_ns
    trace = _trace_kind(
        trace_id,
        defaults,
        facts,
        PROCESS.clock_ns,
        defaults.fragment_bytes,
        now_ns + defaults.fragment_age_ns,
        remote,
        PROCESS.forks,
    )
    if remote and facts.metadata:
        trace.changed = True  # or they are not sent
    account, PROCESS.watch = PROCESS.watch, None
    if account is not None:
        account.since_ns = since_ns
        trace.account = account
    return trace


def is_silent() -> bool:
    """Whether the app wants nothing recorded here."""
    inside = scope.get()
    if inside is not None and inside.enabled is False:
        return True
    return _silenced is not None and _silenced()


def complain_not_enabled() -> None:
    """Say once, and what to do, that nothing is recorded; not where the app wants it so."""
    global _complained  # noqa: PLW0603  the process has one
    if _complained:
        return
    _complained = True
    if not switched_off(os.environ):
        logger.warning(
            "spanferry is not enabled, so nothing is traced: call spanferry.enable("
            "bootstrap_servers='host:9092') when the app starts, or set SPANFERRY_ENABLED=true and "
            "SPANFERRY_BOOTSTRAP_SERVERS; SPANFERRY_ENABLED=false silences this",
        )


def expect_no_traces() -> None:
    """From now on nobody is told: what still traces is a thread that does not know of the end."""
    global _complained  # noqa: PLW0603  the process has one
    _complained = True


def _learn(defaults: TraceDefaults) -> None:
    """Let `start_span` open traces by itself where nothing else holds for them."""
    if defaults.ratio < 1.0 or defaults.model_id is not None:
        return
    kinds, PROCESS.plain = _kinds, defaults
    if (  # or another thread has changed it meanwhile
        PROCESS.models
        or PROCESS.scopes
        or outlets.installed is not defaults.outlet
        or _kinds is not kinds
    ):
        PROCESS.plain = None


def _sampled(trace_id: bytes, ratio: float) -> bool:
    """Whether a trace is recorded where not all are."""
    return int.from_bytes(trace_id[-_SAMPLING_BYTES:], "big") < round(ratio * _SAMPLING_RANGE)


def dress_with_ours(facts: TracePart, model_id: str | None = None) -> None:
    """Give a new trace the model that is active here, else `model_id`, and what the scope says."""
    model = get_active_model()
    if model is not None and model.model_id is None:
        facts.active_model, facts.model_params = model.name, model.params
    else:
        model_id = model_id if model is None else model.model_id
        if model_id is not None:
            facts.metadata[mlflow_keys.METADATA_MODEL_ID] = model_id
    inside = scope.get()
    if inside is not None:
        inside.dress(facts)


def _defaults_of(outlet: Outlet) -> TraceDefaults:
    global _defaults  # noqa: PLW0603  the process has one
    if _defaults is not None and _defaults.outlet is outlet:
        return _defaults
    given = os.environ.get(_RATIO_VARIABLE, "").strip() or "1"
    try:
        ratio = float(given)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        say_once("ratio", "%s=%s is not between 0 and 1: all is traced", _RATIO_VARIABLE, given)
        ratio = 1.0
    models = (os.environ.get(variable) for variable in _MODEL_VARIABLES)
    settings = outlet.settings
    _defaults = TraceDefaults(
        outlet,
        ratio,
        next(filter(None, models), None),
        settings.experiment_id,
        settings.experiment,
        settings.fragment_bytes,
        int(settings.fragment_age_s * 1e9),
    )
    return _defaults
