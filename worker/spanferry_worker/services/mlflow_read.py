"""Reading what is stored of many traces at once."""

from collections.abc import Iterable, Mapping
from operator import methodcaller
from typing import Final

from mlflow.entities import Span, Trace, TraceInfo
from mlflow.tracing.constant import SpansLocation, TraceMetadataKey, TraceTagKey

from spanferry_schemas import trace_id_text
from spanferry_worker.services.mlflow_backend import Backend
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["READ_BYTES_MAX", "read_at_once"]

READ_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of stored spans that are read at once: twice a batch. The others are read one by one."""
_IN_DATABASE: Final = SpansLocation.TRACKING_STORE.value


def read_at_once(
    backend: Backend, traces: Iterable[AssembledTrace], stored: Mapping[str, TraceInfo]
) -> dict[str, list[Span]]:
    """The stored spans of the first of these traces, as many as may be in memory together; none where
    MLflow's own way is asked for. Without traces that are not finished.

    What comes again after a crash is all stored; reading it one by one takes ten times as long as
    it took to store it.
    """
    ids: list[str] = []
    left = READ_BYTES_MAX
    for trace in traces:
        info = stored.get(trace_id_text(trace.trace_id or b"")) if trace.spans else None
        if info is None or info.tags.get(TraceTagKey.SPANS_LOCATION) != _IN_DATABASE:
            continue
        size = info.trace_metadata.get(TraceMetadataKey.SIZE_BYTES, "")
        left -= int(size) if size.isdecimal() else READ_BYTES_MAX
        if left < 0:
            break
        ids.append(info.trace_id)
    if backend.bulk is None or len(ids) < 2:
        return {}
    found: list[Trace] = backend.ask("reading traces", methodcaller("batch_get_traces", ids))
    return {one.info.trace_id: list(one.data.spans) for one in found}
