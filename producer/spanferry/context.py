"""Which span is current here: the context variables, and what may be in them."""

from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple, TypeAlias, cast

from spanferry.spans import Span
from spanferry.trace_state import LiveTrace

__all__ = [
    "Current",
    "CurrentToken",
    "ForeignParent",
    "RemoteParent",
    "current",
    "get_current_active_span",
    "leave",
]


class RemoteParent(NamedTuple):
    """Another service's span, as its headers name it. `ours`: it goes to MLflow as ours do."""

    trace_id: bytes
    span_id: bytes
    sampled: bool
    ours: bool = False
    upstream: str = ""
    """What its samplers say of the trace (OpenTelemetry's `th` and `rv`), where it is not ours."""


class ForeignParent:
    """Another tracer's span in this process. `trace` is None where it does not go through us."""

    __slots__ = ("live", "otel_span", "span_id_bytes", "trace")

    def __init__(
        self, trace: LiveTrace | None, span_id: bytes, otel_span: Any, live: Any = None
    ) -> None:
        self.trace = trace
        self.span_id_bytes = span_id
        self.otel_span = otel_span
        """OpenTelemetry's span."""
        self.live = live
        """MLflow's span around it; None where there is none."""


Current: TypeAlias = Span | RemoteParent | ForeignParent | None
CurrentToken: TypeAlias = Token[Current]

current: Final[ContextVar[Current]] = ContextVar("spanferry_current", default=None)
"""The innermost span that is active here, or the other service's span that the next one goes under."""


def leave(token: CurrentToken) -> None:
    """Make current again what was before.

    A token of another context (of a generator that is finalised elsewhere) is ignored: the context
    that runs here was never changed.
    """
    try:
        current.reset(token)
    except (ValueError, RuntimeError):
        return


def get_current_active_span() -> Span | None:
    """The span that is active here, to set attributes on it; None where there is none."""
    span = current.get()
    if isinstance(span, ForeignParent):
        return cast("Span | None", span.live)  # MLflow's own, which takes the same calls
    return span if isinstance(span, Span) and span.recording else None
