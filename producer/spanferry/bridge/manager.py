"""MLflow's trace manager over the traces of this process; MLflow's own traces stay with MLflow."""
# pyright: reportPrivateUsage=false

import os
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

from mlflow.entities import LiveSpan, TraceInfo
from mlflow.tracing.trace_manager import (
    InMemoryTraceManager,
    ManagerTrace,
    _Trace,
)

from spanferry.bridge.ended import was_handed_over
from spanferry.bridge.traces import OPEN
from spanferry_schemas import trace_id_text

__all__ = ["BridgedTraceManager"]


class BridgedTraceManager(InMemoryTraceManager):
    """What MLflow's code asks for open traces by id. Those that go through us come first."""

    def __init__(self, before: InMemoryTraceManager) -> None:
        self._lock = threading.RLock()
        self._otel_id_to_mlflow_trace_id = before._otel_id_to_mlflow_trace_id
        self.mlflows: MutableMapping[str, _Trace] = before._traces
        """Traces that MLflow exports itself, such as an evaluation's, and marks for remote ones."""
        self._traces: Any = _Table(self.mlflows)

    def register_trace(
        self, otel_trace_id: int, trace_info: TraceInfo, is_remote_trace: bool = False
    ) -> None:
        """A trace that MLflow exports itself, or the mark that a remote one goes on here."""
        with self._lock:
            self.mlflows[trace_info.trace_id] = _Trace(trace_info, is_remote_trace=is_remote_trace)
            self._otel_id_to_mlflow_trace_id[otel_trace_id] = trace_info.trace_id

    def get_span_from_id(self, trace_id: str, span_id: str) -> LiveSpan | None:
        """An open trace's span."""
        trace = OPEN.get(trace_id)
        if trace is not None:
            found: LiveSpan | None = trace.span_dict.get(span_id)
            return found
        return super().get_span_from_id(trace_id, span_id)

    def get_root_span_id(self, trace_id: str) -> str | None:
        """An open trace's root; of one that has just ended an id that no span has."""
        found: str | None = super().get_root_span_id(trace_id)
        return "ended" if found is None and was_handed_over(trace_id) else found

    def get_mlflow_trace_id_from_otel_id(self, otel_trace_id: int) -> str | None:
        """MLflow's id of an open trace."""
        trace_id = trace_id_text(otel_trace_id.to_bytes(16, "big"))
        if OPEN.get(trace_id) is not None:
            return trace_id
        return super().get_mlflow_trace_id_from_otel_id(otel_trace_id)

    def pop_trace(self, otel_trace_id: int) -> ManagerTrace | None:
        """Take out a trace that MLflow exports itself; one of ours leaves by itself."""
        with self._lock:
            trace_id = self._otel_id_to_mlflow_trace_id.pop(otel_trace_id, None)
            trace = None if trace_id is None else self.mlflows.pop(trace_id, None)
        if trace is None:
            return None
        return ManagerTrace(
            trace=trace.to_mlflow_trace(),
            prompts=trace.prompts,
            is_remote_trace=trace.is_remote_trace,
        )

    def _check_timeout_update(self) -> None:
        """MLFLOW_TRACE_TIMEOUT_SECONDS is looked after elsewhere."""

    def renew_lock(self) -> None:
        """In a forked process: a thread that is not here may hold it."""
        self._lock = threading.RLock()


class _Table(MutableMapping[str, Any]):
    """Ours and MLflow's traces by MLflow's id, as if they were in one dict."""

    def __init__(self, mlflows: MutableMapping[str, Any]) -> None:
        self._mlflows = mlflows

    def __getitem__(self, trace_id: str) -> Any:
        trace = OPEN.get(trace_id)
        return self._mlflows[trace_id] if trace is None else trace.view

    def __setitem__(self, trace_id: str, trace: Any) -> None:
        self._mlflows[trace_id] = trace

    def __delitem__(self, trace_id: str) -> None:
        del self._mlflows[trace_id]

    def __iter__(self) -> Iterator[str]:
        yield from [trace.mlflow_id for trace in OPEN.all()]
        yield from list(self._mlflows)

    def __len__(self) -> int:
        return len(OPEN) + len(self._mlflows)


def _after_fork() -> None:
    manager = InMemoryTraceManager._instance
    if isinstance(manager, BridgedTraceManager):
        manager.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
