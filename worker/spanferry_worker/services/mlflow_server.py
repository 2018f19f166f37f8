"""Requests to an MLflow server, with what can go wrong sorted by what to do next."""

import gzip
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracing.utils.otlp import MLFLOW_EXPERIMENT_ID_HEADER, OTLP_TRACES_PATH
from mlflow.utils.rest_utils import http_request
from packaging.version import InvalidVersion, Version

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.services.mlflow_errors import error_code, to_worker_error
from spanferry_worker.services.mlflow_private import credentials
from spanferry_worker.telemetry import LogEvent

__all__ = ["Server"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S: Final = 5

_RACE_TEXTS: Final = ("IntegrityError", "UniqueViolation", "ForeignKeyViolation", "deadlock")


class Server:
    """One server, by the address of its root. Holds no connection; used by several threads."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def version(self) -> Version:
        """Ask who is there. Raises TransientError or FatalError with what to do."""
        try:
            response = self._get("/version")
        except MlflowException as error:
            raise TransientError(f"no MLflow server answers at {self.uri}: {error}") from error
        if response.status_code in {401, 403}:
            raise FatalError(self.refused(response.status_code))
        if response.status_code >= 500 or response.status_code == 429:
            raise TransientError(
                f"{self.uri} answers {response.status_code} to /version: it is not ready"
            )
        try:
            version = Version(response.text.strip())
        except InvalidVersion:
            version = None
        if response.status_code != 200 or version is None:
            raise FatalError(
                f"{self.uri} is not an MLflow server: it answers {response.status_code} to /version; "
                "point the tracking URI to the server's root"
            )
        return version

    def call(self, doing: str, request: Callable[[], _T]) -> _T:
        """Run one request of MLflow's client, with its errors as ours.

        An INTERNAL_ERROR may be an ill server or data that it cannot digest: where it answers other
        questions it is the data.
        """
        try:
            return request()
        except MlflowException as error:
            ours = to_worker_error(error, doing)
            text = str(error)
            if any(race in text for race in _RACE_TEXTS):
                raise TransientError(str(ours)) from error
            if not _is_internal(error):
                raise ours from error
            if not self._is_well():
                raise TransientError(str(ours)) from error
            raise PoisonError(f"{ours} (the server answers other requests)") from error

    def send_spans(self, experiment_id: str, request: Any) -> None:
        """POST an ExportTraceServiceRequest. All of it is stored after a return, or none."""
        post: Callable[[], Any] = partial(
            http_request,
            credentials(self.uri),
            OTLP_TRACES_PATH,
            "POST",
            data=gzip.compress(request.SerializeToString(), compresslevel=4),
            extra_headers={
                "Content-Type": "application/x-protobuf",
                "Content-Encoding": "gzip",
                MLFLOW_EXPERIMENT_ID_HEADER: experiment_id,
            },
            max_retries=0,
            raise_on_status=False,
        )
        answer: Any = self.call("storing spans", post)
        response: requests.Response = answer
        if response.status_code != 200:
            raise self._refusal(response)

    def _refusal(self, response: requests.Response) -> WorkerError:
        """What an answer to spans other than 200 means. FastAPI's own errors carry no MLflow code."""
        status = response.status_code
        message = f"storing spans: the server answers {status}: {response.text[:1000]}"
        if status == 501:
            return FatalError(
                f"{self.uri} keeps its data in files and takes no spans: start the server with a "
                "database (`--backend-store-uri`)"
            )
        if status in {401, 403}:
            _logger.error(
                "%s; traces wait until that is mended",
                self.refused(status),
                extra=LogEvent.STORE_REFUSED(),
            )
            return TransientError(message)
        if any(text in response.text for text in _RACE_TEXTS):
            return TransientError(message)
        if status == 500 and _json_code(response) == "INTERNAL_ERROR" and self._is_well():
            return PoisonError(message)
        if status >= 500 or status in {407, 408, 425, 429}:
            return TransientError(message)
        return PoisonError(message)

    def stored_spans(self, trace_id: str) -> list[dict[str, Any]] | None:
        """A trace's spans as they are stored, or None where the server has no such route.

        This is what MLflow's UI asks for: the API's own answer takes minutes for 10 MB of spans.
        """
        path = f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace_id}"
        fetch: Callable[[], Any] = partial(
            http_request, credentials(self.uri), path, "GET", max_retries=0, raise_on_status=False
        )
        response: Any = self.call(f"reading trace {trace_id}", fetch)
        if response.status_code != 200:
            return None
        try:
            data = json.loads(response.content)
        except ValueError:
            return None  # a page of some proxy
        spans: list[dict[str, Any]] = data["spans"]
        return spans

    def refused(self, status: int) -> str:
        """What to say when the server does not accept the worker's credentials."""
        return (
            f"{self.uri} refuses the worker's credentials ({status}): set MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )

    def _is_well(self) -> bool:
        try:
            answer = self._get("/api/2.0/mlflow/experiments/get?experiment_id=0")
        except MlflowException:
            return False
        return answer.status_code < 500

    def _get(self, path: str) -> requests.Response:
        response: Any = http_request(
            credentials(self.uri),
            path,
            "GET",
            timeout=CHECK_TIMEOUT_S,
            max_retries=0,
            raise_on_status=False,
        )
        answer: requests.Response = response
        return answer


def _is_internal(error: MlflowException) -> bool:
    """Whether the server itself failed on the request, rather than the way to it."""
    if isinstance(error, RestException):
        return error_code(error) == "INTERNAL_ERROR"
    return "too many 500 error responses" in str(error)  # what remains after MLflow's own retry


def _json_code(response: requests.Response) -> str:
    try:
        body = json.loads(response.text)
    except ValueError:
        return ""
    return str(body.get("error_code", "")) if isinstance(body, dict) else ""
