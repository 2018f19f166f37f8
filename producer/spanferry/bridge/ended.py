"""The traces that ended last in this process: they may be on their way, and not in MLflow yet."""

from collections import deque
from typing import Final

__all__ = ["remember", "take_unseen", "was_handed_over"]

_TRACES_MAX: Final = 1_000

_unseen: deque[str] = deque(maxlen=_TRACES_MAX)
"""Nobody has waited for them yet."""
_seen: deque[str] = deque(maxlen=_TRACES_MAX)


def remember(trace_id: str) -> None:
    """A trace has been handed over."""
    _unseen.append(trace_id)


def take_unseen() -> list[str]:
    """Those that nobody has taken here before, the oldest first."""
    taken: list[str] = []
    while _unseen:
        taken.append(_unseen.popleft())
    _seen.extend(taken)
    return taken


def was_handed_over(trace_id: str) -> bool:
    """Whether it is one of them."""
    return trace_id in _unseen or trace_id in _seen
