"""Attachments into the artifact location of their trace, by MLflow's own artifact stores."""

import errno
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

from mlflow.entities import TraceInfo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracing.utils.artifact_utils import get_artifact_uri_for_trace

from spanferry_schemas import Attachment
from spanferry_worker.errors import PoisonError, TransientError, WorkerError
from spanferry_worker.services.mlflow_errors import causes, to_worker_error
from spanferry_worker.telemetry import LogEvent

__all__ = ["Artifacts"]

_logger = logging.getLogger(__name__)

UPLOADS_AT_ONCE: Final = 8
"""Of all writes together; each holds one attachment in memory and in a temporary file."""

_PROXIED: Final = "mlflow-artifacts"
_NO_PLACE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
)
_TRANSIENT_STATUS: Final = frozenset({401, 403, 407, 408, 425, 429})
_PASSING_WORDS: Final = ("timeout", "timed out", "connect", "throttl", "slowdown", "unavailable")
"""How the clients of object stores, whose errors have no common base, name what may pass."""
_ADVICE: Final = (
    "give the worker access to MLflow's artifacts and replay the dead letters; with "
    "MLFLOW_TRACE_EXTRACT_ATTACHMENTS=false images stay in the spans as they were sent"
)


class Artifacts:
    """Uploads attachments. Blocking; several threads may call it at once."""

    def __init__(self, tracking_uri: str, *, default_root: str) -> None:
        """`tracking_uri`: where a server serves artifacts. `default_root`: of new experiments."""
        self._tracking_uri = tracking_uri
        self._default_root = default_root
        self._uploaders = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="mlflow-attach")

    def reachable(self) -> bool:
        """Whether attachments can be uploaded at all; where not, a line says the remedy."""
        served = urlsplit(self._tracking_uri).scheme in {"http", "https"}
        if served or urlsplit(self._default_root).scheme != _PROXIED:
            return True
        _logger.warning(
            "MLflow's artifacts lie behind its server (%s), whose address this worker does not know: "
            "images stay in the spans as base64. Set mlflow.artifact_server to http://…",
            self._default_root,
            extra=LogEvent.WRITE_PARTLY(),
        )
        return False

    def upload(self, pairs: Iterable[tuple[TraceInfo, Attachment]]) -> None:
        """Store each attachment with its trace, over the same one. All are stored after a return."""
        wanted = list(pairs)
        if len(wanted) == 1:
            self._upload(wanted[0])
        else:
            list(self._uploaders.map(self._upload, wanted))

    def close(self) -> None:
        """Uploads under way end by themselves."""
        self._uploaders.shutdown(wait=False, cancel_futures=True)

    def _upload(self, pair: tuple[TraceInfo, Attachment]) -> None:
        info, attachment = pair
        try:
            uri = get_artifact_uri_for_trace(info)
            repository: Any = get_artifact_repository(uri, tracking_uri=self._tracking_uri)
            repository.upload_attachment(attachment.attachment_id, attachment.data)
        except Exception as error:
            raise _sorted(error, info.trace_id) from error


def _sorted(error: Exception, trace_id: str) -> WorkerError:
    """Transient where trying again may help. Artifact stores raise whatever their clients raise."""
    doing = f"uploading an attachment of trace {trace_id}"
    ours = to_worker_error(error, doing)
    if _may_pass(error, ours):
        return TransientError(str(ours))
    return PoisonError(f"{ours}; {_ADVICE}")


def _may_pass(error: Exception, ours: WorkerError) -> bool:
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_PLACE:
            return False
        if (status := _status(cause)) is not None:
            return status >= 500 or status in _TRANSIENT_STATUS
    if isinstance(ours, TransientError):
        return True
    name = f"{type(error).__name__}: {error}".lower()
    return not isinstance(error, ImportError) and any(word in name for word in _PASSING_WORDS)


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of requests, boto, Google's or Azure's client."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response_metadata: Any = response.get("ResponseMetadata", {})
        status: Any = response_metadata.get("HTTPStatusCode")
    elif response is not None:
        status = getattr(response, "status_code", None)
    else:
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and 100 <= status < 600 else None
