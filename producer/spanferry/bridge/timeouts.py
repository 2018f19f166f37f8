"""MLFLOW_TRACE_TIMEOUT_SECONDS: what takes longer is ended as an error, so that it can be seen."""

import threading
import time
from typing import Any, Final

from mlflow.entities import SpanEvent
from mlflow.environment_variables import (
    MLFLOW_TRACE_TIMEOUT_CHECK_INTERVAL_SECONDS,
    MLFLOW_TRACE_TIMEOUT_SECONDS,
)
from mlflow.exceptions import MlflowTracingException

from spanferry import values
from spanferry.bridge.traces import OPEN, BridgedTrace
from spanferry.log import say_once

__all__ = ["Timeouts"]

_from_exception: Final[Any] = SpanEvent.from_exception


class Timeouts:
    """A thread that looks at the open traces now and then; only where a timeout is set."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, where MLFLOW_TRACE_TIMEOUT_SECONDS is set."""
        if MLFLOW_TRACE_TIMEOUT_SECONDS.get():
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, name="spanferry-timeouts", args=(self._stop,), daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread = None

    def after_fork(self) -> None:
        """In the child the thread is not there."""
        if self._thread is not None:
            self.start()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(MLFLOW_TRACE_TIMEOUT_CHECK_INTERVAL_SECONDS.get() or 1):
            timeout_s = MLFLOW_TRACE_TIMEOUT_SECONDS.get()
            if timeout_s:
                end_overdue(timeout_s, time.perf_counter_ns())


def end_overdue(timeout_s: float, now_ns: int) -> None:
    """End the traces that were opened more than `timeout_s` before `now_ns` (perf_counter_ns)."""
    for trace in OPEN.all():
        if not trace.ended and now_ns - trace.opened_ns > timeout_s * 1e9:
            try:
                _halt(trace, timeout_s)
            except Exception as error:  # noqa: BLE001  a thread of ours must not die of a trace
                say_once("timeout", "an overdue trace could not be ended: %s", values.text(error))


def _halt(trace: BridgedTrace, timeout_s: float) -> None:
    root = next((one for one in list(trace.span_dict.values()) if one.parent_id is None), None)
    if root is None:
        return
    root.set_status("ERROR")
    message = (
        f"Trace {trace.mlflow_id} is timed out after {timeout_s} seconds. The operation may be "
        "stuck or taking too long to complete. To increase the timeout, set the environment "
        "variable MLFLOW_TRACE_TIMEOUT_SECONDS to a larger value."
    )
    root.add_event(_from_exception(MlflowTracingException(message)))
    root.end()
