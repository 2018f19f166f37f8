"""Which span is current here: the context variables, and what may be in them."""

from contextvars import ContextVar, Token
from typing import Final, NamedTuple, TypeAlias

from spanferry.spans import Span

__all__ = ["Current", "CurrentToken", "RemoteParent", "current", "get_current_active_span", "leave"]


class RemoteParent(NamedTuple):
    """Another service's span, as its headers name it. `ours`: it goes to MLflow as ours do."""

    trace_id: bytes
    span_id: bytes
    sampled: bool
    ours: bool = False


Current: TypeAlias = Span | RemoteParent | None
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
    return span if isinstance(span, Span) and span.recording else None
