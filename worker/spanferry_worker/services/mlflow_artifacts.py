"""Attachments into the artifact location of their trace, by MLflow's own artifact stores."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

from mlflow.entities import TraceInfo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracing.utils.artifact_utils import get_artifact_uri_for_trace

from spanferry_schemas import Attachment
from spanferry_worker.services.mlflow_artifact_errors import sorted_error
from spanferry_worker.telemetry import LogEvent

__all__ = ["Artifacts"]

_logger = logging.getLogger(__name__)

UPLOADS_AT_ONCE: Final = 8
"""Of all writes together; each holds one attachment in memory and in a temporary file."""

_PROXIED: Final = "mlflow-artifacts"
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
            doing = f"uploading an attachment of trace {info.trace_id}"
            raise sorted_error(error, doing, _ADVICE) from error
