"""MLflow's archive of spans: a file `traces.pb` for each trace in an artifact store, as MLflow reads it."""

import errno
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Span, TraceInfo, TraceState
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracing.constant import SpansLocation, TraceMetadataKey, TraceTagKey
from mlflow.tracing.otel.otel_archival import TRACE_ARCHIVAL_FILENAME, traces_data_pb_to_spans
from mlflow.utils.uri import append_to_uri_path

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.metrics import ArchiveMetrics
from spanferry_worker.services.mlflow_archive_format import InexactError, payload, remainder
from spanferry_worker.services.mlflow_artifact_errors import is_gone, sorted_error
from spanferry_worker.services.mlflow_span_rows import SPAN_COLUMNS
from spanferry_worker.services.mlflow_trace_rows import TRACE_COLUMNS, TraceRows
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.telemetry import LogEvent

__all__ = ["Archive", "check_location", "is_archived", "read", "remove"]

_logger = logging.getLogger(__name__)

UPLOADS_AT_ONCE: Final = 8
"""Of all writes together; each holds one trace in memory and in a temporary file."""

_VERSION: Final = re.compile(r"\d+-[0-9a-f]{16}")
_NEW: Final = 1
"""The generation of a trace that is inserted."""
_CONTENT: Final = SPAN_COLUMNS.index("content")
_STATUS: Final = TRACE_COLUMNS.index("status")
_ADVICE: Final = "spans stay in the database until the worker may write to archive.location"


def is_archived(info: TraceInfo) -> bool:
    """Whether the trace's spans lie outside the database."""
    return bool(info.tags.get(TraceTagKey.SPANS_LOCATION) == SpansLocation.ARCHIVE_REPO.value)


def read(trace_id: str, uri: str) -> list[Span]:
    """An archived trace's spans. Raises TransientError, and PoisonError where they are not there.

    MLflow's own way of reading takes a store that is away for a trace without spans.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, TRACE_ARCHIVAL_FILENAME)
        try:
            private.download(get_artifact_repository(uri), TRACE_ARCHIVAL_FILENAME, path)
            spans: list[Span] = traces_data_pb_to_spans(path.read_bytes())
        except Exception as error:
            raise _unread(error, trace_id, uri) from error
    return spans


def _unread(error: Exception, trace_id: str, uri: str) -> WorkerError:
    doing = f"reading the archived spans of trace {trace_id} at {uri}"
    if not is_gone(error):
        return sorted_error(error, doing, "mend the archive and replay the dead letters")
    return PoisonError(
        f"{doing}: they are not there, so that nothing can be added to them; bring the file back, or "
        "delete the trace, and replay the dead letters"
    )


def remove(uri: str) -> None:
    """Delete what no trace refers to any more. Never raises: what stays behind takes place only.

    Not what MLflow's own archival has written: it would write to the same place again.
    """
    if not _VERSION.fullmatch(uri.rpartition("/")[2]):
        return
    try:
        get_artifact_repository(uri).delete_artifacts(TRACE_ARCHIVAL_FILENAME)
    except Exception as error:  # noqa: BLE001
        _logger.debug("left behind %s: %s", uri, error, extra=LogEvent.WRITE_DETAIL())


def check_location(location: str) -> None:
    """Ask the store for something. Raises TransientError, or FatalError where it cannot be used.

    Nothing is written. That a folder, or the one that it would be made in, may be written to is asked too;
    of an object store only a write would tell.
    """
    try:
        repository: Any = get_artifact_repository(location)
        repository.list_artifacts("spanferry")
        if isinstance(repository, LocalArtifactRepository):
            _check_folder(Path(repository.artifact_dir))
    except Exception as error:
        ours = sorted_error(error, f"archive.location {location}", "it cannot be used")
        if isinstance(ours, TransientError):
            raise ours from error
        raise FatalError(str(ours)) from error


def _check_folder(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "this user may not write there", str(there))


class Archive:
    """Where large traces go. Blocking; several threads may call it at once."""

    def __init__(self, policy: ArchivePolicy, metrics: ArchiveMetrics | None = None) -> None:
        """`metrics`: where what goes there is counted."""
        self._policy = policy
        self._metrics = metrics
        self._uploaders = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="mlflow-archive")
        self._told = False

    def check(self) -> None:
        """As `check_location` of its own."""
        check_location(self._policy.location)

    def wants(self, metadata: Mapping[str, str]) -> bool:
        """Whether a trace with this metadata is large enough."""
        size = metadata.get(TraceMetadataKey.SIZE_BYTES, "")
        return size.isdecimal() and int(size) > self._policy.above_bytes

    def new(self, traces: Sequence[TraceRows]) -> list[TraceRows]:
        """The traces as they are to be inserted, where the spans of large ones are in the archive by now.

        Raises TransientError.
        """
        large = [trace for trace in traces if self._is_large(trace)]
        moved = {trace.trace_id: trace for trace in self._moved(large)}
        return [moved.get(trace.trace_id, trace) for trace in traces]

    def put(
        self, experiment_id: object, trace_id: str, generation: int, contents: Sequence[str]
    ) -> str | None:
        """Write a trace's spans; the place that MLflow is to read them from.

        None where they stay in the database: the archive cannot hold them as they are, or refuses them.
        `generation` is the row's: a later one goes to another place, as does other content, so that what
        a row refers to is never written over. The same comes to the same place again. Raises
        TransientError.
        """
        try:
            data = payload(contents)
        except InexactError as error:
            _logger.debug(
                "trace %s stays in the database: %s", trace_id, error, extra=LogEvent.WRITE_DETAIL()
            )
            self._count("unfit")
            return None
        version = f"{generation}-{hashlib.sha256(data).hexdigest()[:16]}"
        place = (str(experiment_id), "traces", trace_id, "artifacts", version)
        uri: str = append_to_uri_path(self._policy.location, *place)
        try:
            repository: Any = get_artifact_repository(uri)
            repository.upload_archived_trace_data_bytes(data)
            _sync(repository)
        except Exception as error:
            ours = sorted_error(error, f"archiving the spans of trace {trace_id}", _ADVICE)
            if isinstance(ours, TransientError):
                raise ours from error
            self._count("refused")
            self._tell(ours)
            return None
        self._count("written", len(data))
        return uri

    def close(self) -> None:
        """Uploads under way end by themselves."""
        self._uploaders.shutdown(wait=False, cancel_futures=True)

    def _is_large(self, trace: TraceRows) -> bool:
        going_on = trace.values[_STATUS] == TraceState.IN_PROGRESS.value
        return not going_on and self.wants(trace.metadata)

    def _moved(self, traces: Sequence[TraceRows]) -> Iterable[TraceRows]:
        if len(traces) == 1:
            return [self._move(traces[0])]
        return self._uploaders.map(self._move, traces)

    def _move(self, trace: TraceRows) -> TraceRows:
        contents = [row[_CONTENT].decode("utf-8", "surrogatepass") for row in trace.spans]
        uri = self.put(trace.experiment_id, trace.trace_id, _NEW, contents)
        if uri is None:
            return trace
        tags = {
            **trace.tags,
            TraceTagKey.SPANS_LOCATION: SpansLocation.ARCHIVE_REPO.value,
            TraceTagKey.ARCHIVE_LOCATION: uri,
        }
        spans = [
            (*row[:_CONTENT], remainder(content).encode(), *row[_CONTENT + 1 :])
            for row, content in zip(trace.spans, contents, strict=True)
        ]
        return trace._replace(tags=tags, spans=spans)

    def _count(self, result: str, size: int = 0) -> None:
        if self._metrics is not None:
            self._metrics.traces.labels(result).inc()
            self._metrics.bytes.inc(size)

    def _tell(self, error: WorkerError) -> None:
        """Say once what an operator has to mend."""
        if not self._told:
            self._told = True
            _logger.warning("%s", error, extra=LogEvent.WRITE_PARTLY())


def _sync(repository: Any) -> None:
    """Onto the disk, where it is a folder: the row that is committed next will be, too."""
    if not isinstance(repository, LocalArtifactRepository):
        return
    file = Path(repository.get_local_path(TRACE_ARCHIVAL_FILENAME))
    for path in (file, file.parent):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
