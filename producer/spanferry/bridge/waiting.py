"""What MLflow's flush functions wait for: that a trace can be read, not only that it is on its way."""
# pyright: reportPrivateUsage=false

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient

from spanferry import client
from spanferry.log import logger

__all__ = ["FlushQueue", "remember"]

_KAFKA_S: Final = 30.0
_STORED_S: Final = 30.0
_POLL_S: Final = 0.2
_TRACES_MAX: Final = 1_000
"""So many of the last traces are waited for."""

_handed_over: deque[str] = deque(maxlen=_TRACES_MAX)


def remember(trace_id: str) -> None:
    """A trace has been handed over."""
    _handed_over.append(trace_id)


class FlushQueue:
    """What MLflow takes for the queue of its exporter: `flush` is called on it."""

    def __init__(self, mlflows_exporter: Callable[[], Any | None]) -> None:
        self._mlflows_exporter = mlflows_exporter

    def flush(self, terminate: bool = False) -> None:
        """Wait until the traces that have ended can be read from MLflow; says what is left."""
        queue = getattr(self._mlflows_exporter(), "_async_queue", None)
        if queue is not None:
            queue.flush(terminate=terminate)
        if self.acknowledged(_KAFKA_S):
            _wait_until_stored()

    def acknowledged(self, timeout_s: float) -> bool:
        """Wait until Kafka has everything."""
        return client.flush(timeout_s)


def _wait_until_stored() -> None:
    """Ask the tracking server, the newest trace first: what is older is mostly there before."""
    deadline = time.monotonic() + _STORED_S
    waiting: list[str] = []
    while _handed_over:
        waiting.append(_handed_over.popleft())
    store = TracingClient().store
    while waiting:
        while waiting and _is_stored(store, waiting[-1]):
            waiting.pop()
        if not waiting:
            return
        if time.monotonic() > deadline:
            logger.warning(
                "%d traces are in Kafka, but not in MLflow after %.0f s: does the worker run, write "
                "to the same tracking server, and keep them by its sampling policy?",
                len(waiting),
                _STORED_S,
            )
            return
        time.sleep(_POLL_S)


def _is_stored(store: Any, trace_id: str) -> bool:
    try:
        store.get_trace_info(trace_id)
    except MlflowException:
        return False
    return True
