"""What MLflow's flush functions wait for: that a trace can be read, not only that it is on its way."""
# pyright: reportPrivateUsage=false

import time
from collections.abc import Callable
from typing import Any, Final

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient

from spanferry import client
from spanferry.bridge.ended import take_unseen
from spanferry.log import logger

__all__ = ["FLUSH", "FlushQueue", "when_stored"]

_KAFKA_S: Final = 30.0
_STORED_S: Final = 30.0
_POLL_S: Final = 0.2
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
_SPANS_LOCATION: Final = "mlflow.trace.spansLocation"


def when_stored(call: Callable[[], Any], timeout_s: float = _STORED_S) -> Any:
    """Call it; where MLflow does not have yet what it is about, again until it has.

    Raises what `call` raises in the end. Not for the request path: it waits for the worker.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except MlflowException as error:
            if error.error_code != _MISSING or time.monotonic() > deadline:
                raise
        client.flush(_POLL_S)
        time.sleep(_POLL_S)


_mlflows_flush: Final[Any] = mlflow.flush_trace_async_logging


def flush_trace_async_logging(terminate: bool = False) -> None:
    """As MLflow's; where no trace was made here, feedback and tags are in Kafka afterwards."""
    client.flush(_KAFKA_S)
    _mlflows_flush(terminate=terminate)


FLUSH: Final = (_mlflows_flush, flush_trace_async_logging)
"""MLflow's function, and what stands for it."""


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
    waiting = take_unseen()
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
    """Whether its spans are there too: they come after the trace, and leave this tag on it."""
    try:
        return _SPANS_LOCATION in store.get_trace_info(trace_id).tags
    except MlflowException:
        return False
