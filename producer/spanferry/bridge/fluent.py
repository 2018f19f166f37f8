"""MLflow's fluent functions over light spans. Where those may not be used MLflow's own are called."""
# pyright: reportPrivateUsage=false

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from time import perf_counter_ns
from typing import Any, Final, cast

from mlflow.entities import NoOpSpan as MlflowNoOpSpan
from mlflow.entities.span import NO_OP_SPAN_TRACE_ID
from mlflow.tracing import distributed, fluent, provider
from mlflow.tracing.utils import capture_function_input_args

from spanferry import propagation, tracing
from spanferry.arguments import Arguments
from spanferry.bridge.gate import GATE, disabled_here, ratio_here
from spanferry.bridge.light import LightNoOpSpan, LightSpanBlock, LiveWords
from spanferry.bridge.traces import BridgedTrace
from spanferry.context import ForeignParent, RemoteParent, current, leave
from spanferry.entities import nanoseconds_of
from spanferry.opening import not_started, open_span, open_trace
from spanferry.process import PROCESS, new_trace_id
from spanferry.spans import NO_OP_SPAN, NoOpSpan, Span
from spanferry.starting import NOT_BEGUN, starter
from spanferry.stopping import let_through
from spanferry.trace_state import TraceDefaults
from spanferry.watching import watch

__all__ = ["MLFLOWS", "REPLACEMENTS"]


class MLFLOWS:
    """MLflow's own functions."""

    start_span = staticmethod(fluent.start_span)
    start_span_no_context: Any = staticmethod(fluent.start_span_no_context)
    get_current_active_span = staticmethod(fluent.get_current_active_span)
    update_current_trace = staticmethod(fluent.update_current_trace)
    set_span_in_context: Any = staticmethod(provider.set_span_in_context)
    detach_span_from_context = staticmethod(provider.detach_span_from_context)
    capture_function_input_args = staticmethod(capture_function_input_args)
    headers = staticmethod(distributed.get_tracing_context_headers_for_http_request)


class _Block(LightSpanBlock, contextlib.ContextDecorator):
    """What `start_span` gives."""

    __slots__ = ("_mlflows",)

    _mlflows: Any
    """MLflow's own context manager, where that stands for this one."""

    def __enter__(self) -> Any:
        around: Any = current.get()
        begins = self._more is None and self._end_ns == NOT_BEGUN
        if begins and not PROCESS.scopes and not disabled_here():
            if around is None:
                defaults = GATE.defaults_for_root()
                if defaults is not None:
                    return self._begin_plain_root(defaults)
                if GATE.is_light_for_root():
                    return self._begin_root()
            elif type(around) is _Block and GATE.is_light():
                self.begin(around.trace, around.span_id_bytes, None, False)
                self._token = current.set(self)
                return self
        if not _light_under(around):
            self._mlflows = MLFLOWS.start_span(**self._given())
            return self._mlflows.__enter__()
        span = self._enter(ratio_here() if around is None else None)
        return MlflowNoOpSpan() if span is NO_OP_SPAN else span

    def _begin_plain_root(self, defaults: TraceDefaults) -> Any:
        """What `open_trace` comes to where nothing else is to be found out."""
        try:
            process = PROCESS
            now_ns = process.clock_ns + perf_counter_ns()
            trace = BridgedTrace(
                new_trace_id(),
                defaults,
                None,
                process.clock_ns,
                defaults.fragment_bytes,
                now_ns + defaults.fragment_age_ns,
                False,
                process.forks,
                self._name,
            )
            self.begin(trace, None, now_ns, True)
        except Exception as error:  # noqa: BLE001  the app must not see our troubles
            not_started(error)
            return MlflowNoOpSpan()
        self._token = current.set(self)
        return self

    def _begin_root(self) -> Any:
        """What `_enter` does for a root of which nothing but its name and type is known."""
        try:
            trace = open_trace(self._name, ratio=ratio_here())
        except Exception as error:  # noqa: BLE001  the app must not see our troubles
            not_started(error)
            return MlflowNoOpSpan()
        if isinstance(trace, NoOpSpan):
            self._other = trace
            if trace is NO_OP_SPAN:
                return MlflowNoOpSpan()
            self._token = current.set(trace)
            return trace
        self.begin(trace, None, None, True)
        if trace.account is not None:
            watch(self, trace.account.since_ns)
        self._token = current.set(self)
        return self

    def _leave_other(self, *raised: Any) -> None:
        mlflows: Any = getattr(self, "_mlflows", None)
        if mlflows is not None:
            self._mlflows = None
            mlflows.__exit__(*raised)

    def _recreate_cm(self) -> "_Block":
        """A decorator enters anew for every call."""
        return start_span(**self._given())


_Block.__name__ = LightSpanBlock.__name__


start_span: Final = starter(_Block)
"""As mlflow.start_span."""


def _light_under(around: object) -> bool:
    """Whether a new span there may be a light one."""
    if isinstance(around, LiveWords):
        return GATE.is_light()
    if type(around) is ForeignParent and around.trace is None:
        return False
    return GATE.is_light_for_root()


def start_span_no_context(  # noqa: PLR0913, PLR0917  MLflow's signature
    name: str,
    span_type: str = "UNKNOWN",
    parent_span: Any = None,
    inputs: Any = None,
    attributes: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    experiment_id: str | None = None,
    start_time_ns: int | None = None,
    log_level: Any = None,
    links: Sequence[Any] | None = None,
    description: str | None = None,
) -> Any:
    """As mlflow.start_span_no_context."""
    parent = parent_span
    if parent_span is not None and not isinstance(parent_span, LiveWords):
        if parent_span.trace_id == NO_OP_SPAN_TRACE_ID:
            return parent_span if type(parent_span) is LightNoOpSpan else MlflowNoOpSpan()
        parent = getattr(parent_span._span, "_spanferry", None)
    around = current.get() if parent is None else parent
    if not _light_under(around) or (parent is None and parent_span is not None):
        newer = {"log_level": log_level, "links": links, "description": description}
        return MLFLOWS.start_span_no_context(
            name,
            span_type,
            parent_span,
            inputs,
            attributes,
            tags,
            metadata,
            experiment_id,
            start_time_ns,
            **{key: value for key, value in newer.items() if value is not None},
        )
    start_ns = None if start_time_ns is None else nanoseconds_of(start_time_ns)
    ratio = ratio_here() if around is None else None
    span = open_span(name, span_type, parent, start_ns, experiment_id, ratio)
    if not span.recording:
        return MlflowNoOpSpan() if span is NO_OP_SPAN else span
    dressing = (attributes, description, log_level, links)
    return tracing.outfit(span, start_ns, inputs, dressing, tags, metadata)


def get_current_active_span() -> Any:
    """As mlflow.get_current_active_span."""
    around = current.get()
    if isinstance(around, LiveWords):
        return around
    if isinstance(around, RemoteParent | LightNoOpSpan):
        return None
    return MLFLOWS.get_current_active_span()


def update_current_trace(*args: Any, **kwargs: Any) -> None:
    """As mlflow.update_current_trace."""
    around = current.get()
    if isinstance(around, LiveWords | LightNoOpSpan):
        tracing.update_current_trace(*args, **kwargs)
    else:
        MLFLOWS.update_current_trace(*args, **kwargs)


def set_span_in_context(span: Any) -> Any:
    """As mlflow.tracing.provider.set_span_in_context."""
    if isinstance(span, LiveWords) and GATE.installed:
        return current.set(cast("Span", span))
    return MLFLOWS.set_span_in_context(span)


def detach_span_from_context(token: Any) -> None:
    """As mlflow.tracing.provider.detach_span_from_context."""
    if isinstance(token, Token):
        leave(token)
    else:
        MLFLOWS.detach_span_from_context(token)


def get_tracing_context_headers_for_http_request() -> dict[str, str]:
    """As mlflow.tracing.get_tracing_context_headers_for_http_request, and the call is counted."""
    if isinstance(current.get(), LiveWords):
        return propagation.get_tracing_context_headers_for_http_request()
    return MLFLOWS.headers()


_arguments: weakref.WeakKeyDictionary[Callable[..., Any], Arguments] = weakref.WeakKeyDictionary()


def _capture_function_input_args(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """As mlflow's, with every function's signature read once."""
    try:
        known = _arguments.get(func)
        if known is None:
            known = _arguments[func] = Arguments(func)
        captured = known(args, kwargs)
    except BaseException as error:  # noqa: BLE001  a callable that cannot be kept weakly, or has no signature
        let_through(error)
        captured = None
    if captured is None:
        return MLFLOWS.capture_function_input_args(func, args, kwargs)
    return captured


REPLACEMENTS: Final[tuple[tuple[Any, Any], ...]] = (
    (MLFLOWS.start_span, start_span),
    (MLFLOWS.start_span_no_context, start_span_no_context),
    (MLFLOWS.get_current_active_span, get_current_active_span),
    (MLFLOWS.update_current_trace, update_current_trace),
    (MLFLOWS.set_span_in_context, set_span_in_context),
    (MLFLOWS.detach_span_from_context, detach_span_from_context),
    (MLFLOWS.headers, get_tracing_context_headers_for_http_request),
    (MLFLOWS.capture_function_input_args, _capture_function_input_args),
)
"""MLflow's function, and what stands for it."""
