"""MLflow's context and ours are one: what one makes current is current for the other."""
# pyright: reportPrivateUsage=false

from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context.context import Context, _RuntimeContext
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

from spanferry.bridge.otel_view import OtelView, context_of, no_op_otel_span
from spanferry.context import Current, ForeignParent, RemoteParent, current
from spanferry.propagation import upstream_of
from spanferry.spans import NoOpSpan
from spanferry_schemas.limits import SPAN_ID_BYTES, TRACE_ID_BYTES

__all__ = ["BridgedContext", "current_of", "otel_span_of"]


class BridgedContext(ContextVarsRuntimeContext):
    """Stands where MLflow keeps the current span of its own tracer provider, or of the global one."""

    def __init__(self, before: _RuntimeContext, no_op: type[NoOpSpan]) -> None:
        super().__init__()
        self._before = before
        self._no_op = no_op

    def attach(self, context: Context) -> Any:
        """Make `context` current, and its span current for us."""
        span = otel.get_current_span(context)
        return self._before.attach(context), current.set(current_of(span, self._no_op))

    def get_current(self) -> Context:
        """The current context, with the span that is current for us."""
        context = self._before.get_current()
        around = current.get()
        if around is None:
            return context
        known = otel.get_current_span(context)
        if isinstance(known, OtelView) and known.live is around:
            return context
        if isinstance(around, ForeignParent) and around.otel_span is known:
            return context
        return otel.set_span_in_context(otel_span_of(around), context)

    def detach(self, token: Any) -> None:
        """Make current again what was before. Raises ValueError in another context, as before."""
        if not isinstance(token, tuple):  # of an `attach` before the bridge was there
            self._before.detach(token)
            return
        theirs, ours = token
        try:
            self._before.detach(theirs)
        finally:
            current.reset(ours)


def otel_span_of(around: Current) -> otel.Span:
    """What is current for us as OpenTelemetry's span."""
    if around is None:
        return otel.INVALID_SPAN
    if isinstance(around, RemoteParent):
        ids = context_of(around.trace_id, around.span_id, sampled=around.sampled, remote=True)
        return otel.NonRecordingSpan(ids)
    if isinstance(around, ForeignParent):
        span: otel.Span = around.otel_span
        return span
    if isinstance(around, NoOpSpan):
        return no_op_otel_span(around.otel_trace_id, around.span_id_bytes)
    return OtelView(around)


def current_of(span: otel.Span, no_op: type[NoOpSpan]) -> Current:
    """OpenTelemetry's span as what is current for us."""
    if isinstance(span, OtelView):
        live: Current = span.live
        return live
    bridged: ForeignParent | None = getattr(span, "_spanferry", None)
    if bridged is not None:
        return bridged
    ids: Any = span.get_span_context()  # None in MLflow's own NoOpSpan
    if ids is None or not ids.is_valid:
        return None
    trace_id = ids.trace_id.to_bytes(TRACE_ID_BYTES, "big")
    span_id = ids.span_id.to_bytes(SPAN_ID_BYTES, "big")
    if not isinstance(span, otel.NonRecordingSpan):
        return ForeignParent(None, span_id, span)
    if ids.is_remote or ids.trace_flags.sampled:
        upstream = upstream_of(ids.trace_state.get("ot") or "")
        return RemoteParent(trace_id, span_id, ids.trace_flags.sampled, upstream=upstream)
    return no_op(trace_id, span_id)
