"""Into Databricks, by MLflow's own client: a request for each trace's record, a file for its spans.

Traces go into MLflow experiments; Unity Catalog's tables are another way, which is not served. The file
goes where Databricks says, by MLflow's own artifact store. Databricks limits a workspace: to 200
creations, 200 downloads and 25 searches a second by docs.databricks.com/aws/en/mlflow3/genai/tracing/faq,
to 60 requests a second, and 50 with production monitoring, by …/tracing/reference/tracing-deployment there.
The least of them are our defaults, `http.requests_per_s` sets another; each worker process counts for itself,
all its requests to the workspace together. Files go to the workspace's object store, which has no such limit.

Tested against a stub of the REST API, not against the service. Two workers that add spans to the same
trace at the same moment may lose spans of one: the file is read, changed and written.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from operator import methodcaller
from typing import Any, Final, TypeVar

import requests
from mlflow.entities import Span, TraceData, TraceInfo
from mlflow.entities.assessment import Assessment
from mlflow.exceptions import MlflowTraceDataNotFound
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.databricks_rest_store import DatabricksTracingRestStore
from mlflow.tracing.utils import TraceJSONEncoder
from mlflow.tracing.utils.artifact_utils import get_artifact_uri_for_trace
from mlflow.utils.databricks_utils import get_databricks_host_creds
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

from spanferry_worker.errors import FatalError, PoisonError, TransientError
from spanferry_worker.services.mlflow_archived_traces import ArchivedTraces
from spanferry_worker.services.mlflow_backend import newest_of, quoted
from spanferry_worker.services.mlflow_errors import (
    RefusedError,
    causes,
    error_code,
    is_access,
    is_missing,
    refused_of,
    to_worker_error,
)
from spanferry_worker.services.mlflow_http import HTTP_LIMITS
from spanferry_worker.services.mlflow_private import leave_long_waits
from spanferry_worker.stages.requests import RequestPace, RequestPolicy
from spanferry_worker.telemetry import LogEvent

__all__ = ["DatabricksBackend"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

REQUESTS_PER_S: Final = 50.0
"""Of all kinds together."""
SEARCHES_PER_S: Final = 25.0
WAIT_MAX_S: Final = 5.0
"""What a workspace may ask for (`Retry-After`) that a thread waits for."""
FILE_REQUESTS: Final = 2
"""To the workspace, before a file: how it wants to be spoken to, and the file's address."""
CREDENTIALS_S: Final = 60.0
"""How long it is believed who the workspace takes us for."""
_FIELDS: Final = (
    "state", "request_time", "execution_duration", "experiment_id", "client_request_id",
    "request_preview", "response_preview",
)  # fmt: skip
_PERMANENT: Final = frozenset({400, 404, 411, 413, 414, 422})
"""Answers to an upload that stay what they are."""


class DatabricksBackend:
    """Backend over one workspace. The tracking URI is `databricks` or `databricks://profile`."""

    limits = HTTP_LIMITS
    bulk = None
    archived: ArchivedTraces | None = None
    writing = nullcontext()
    rounding_ms = 0

    def __init__(self, uri: str, policy: RequestPolicy | None = None) -> None:
        """Checks that the workspace lets us in. Raises Transient- or FatalError."""
        policy = policy or RequestPolicy()
        self._workspace = _Workspace(uri, policy)
        self._workspace.check()
        self._stays_said = False
        self._threads = ThreadPoolExecutor(
            policy.requests_at_once_max, thread_name_prefix="databricks"
        )

    @property
    def store(self) -> Any:
        return self._workspace.store

    def ask(self, doing: str, request: Callable[[Any], _T]) -> _T:
        return self._workspace.write(doing, request)

    def infos(self, trace_ids: Sequence[str]) -> dict[str, TraceInfo]:
        found = self._threads.map(self._workspace.info, trace_ids)
        return {info.trace_id: info for info in found if info is not None}

    def spans(self, info: TraceInfo) -> list[Span]:
        return self._workspace.spans(info)

    def write_new(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        def write(info: TraceInfo) -> PoisonError | TransientError | None:
            try:
                self._workspace.upload(self._start(info), spans[info.trace_id])
            except (PoisonError, TransientError) as error:
                return error
            return None

        errors = list(self._threads.map(write, infos))
        refused = refused_of((info.trace_id for info in infos), errors)
        if refused:
            raise RefusedError(refused)

    def add_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:  # noqa: ARG002
        info = self._workspace.info(spans[0].trace_id)
        if info is None:
            raise TransientError(f"trace {spans[0].trace_id} has gone while spans came for it")
        union = {span.span_id: span for span in (*self.spans(info), *spans)}
        self._workspace.upload(info, list(union.values()))

    def put_info(self, info: TraceInfo) -> None:
        self._start(info)

    def add_assessment(self, assessment: Assessment) -> None:
        self.ask(
            f"storing assessment {assessment.assessment_id}",
            lambda store: store.create_assessment(assessment),
        )

    def owners(self, assessment_ids: Sequence[str]) -> dict[str, str] | None:  # noqa: ARG002
        return None

    def newest_traces(
        self,
        client_request_id: str,
        experiment_ids: Sequence[str],
        around_ms: int,  # noqa: ARG002 - the service sorts
    ) -> list[TraceInfo]:
        """Searches the experiments that this worker writes to; a workspace has too many to search all."""
        request_id = quoted(client_request_id)
        if request_id is None or not experiment_ids:
            return []
        condition = f"attributes.client_request_id = {request_id}"
        return self._workspace.search(condition, experiment_ids)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, info: TraceInfo) -> TraceInfo:
        """Write a record; returns it with what Databricks has added. One that is there is amended."""
        try:
            written: TraceInfo = self.ask(
                f"storing trace {info.trace_id}", lambda store: store.start_trace(info)
            )
        except PoisonError as error:
            there = error.__cause__ is not None and "ALREADY_EXISTS" in error_code(error.__cause__)
            stored = self._workspace.info(info.trace_id) if there else None
            if stored is None:
                raise
            self._amend(stored, info)
            return stored
        return written

    def _amend(self, stored: TraceInfo, info: TraceInfo) -> None:
        """Of what is to be there add what the API adds to a stored record; the rest is said, once."""
        stays = self._set_tags(stored, info)
        known = {each.assessment_id for each in stored.assessments}
        for assessment in info.assessments:
            if assessment.assessment_id not in known:
                self.add_assessment(assessment)
        stays += [name for name in _FIELDS if getattr(info, name) != getattr(stored, name)]
        there = stored.trace_metadata
        stays += [key for key, value in info.trace_metadata.items() if there.get(key) != value]
        if stays and not self._stays_said:
            self._stays_said = True
            _logger.warning(
                "Databricks changes no record that it has: of trace %s these stay as they were first "
                "written (%s); so it is with all that comes late",
                info.trace_id,
                ", ".join(stays),
                extra=LogEvent.WRITE_PARTLY(),
            )

    def _set_tags(self, stored: TraceInfo, info: TraceInfo) -> list[str]:
        """Returns those that cannot be set."""
        refused: list[str] = []
        for key, value in info.tags.items():
            if stored.tags.get(key) == value:
                continue
            try:
                self.ask(
                    f"setting a tag of trace {info.trace_id}",
                    methodcaller("set_trace_tag", info.trace_id, key, value),
                )
            except PoisonError:
                refused.append(f"tag {key}")
        return refused


class _Workspace:
    """Requests to one workspace, all at one pace, with errors as ours. Used by several threads."""

    def __init__(self, uri: str, policy: RequestPolicy) -> None:
        self._uri = uri
        per_s = policy.requests_per_s or REQUESTS_PER_S
        self._pace = _Pace(per_s, closed_max_s=policy.retry_after_max_s)
        self._searches = _Pace(min(per_s, SEARCHES_PER_S))
        leave_long_waits(WAIT_MAX_S, self._pace.close)
        self._kept: tuple[float, Any] = (-math.inf, None)
        self.store: Any = DatabricksTracingRestStore(self._credentials)

    def check(self) -> None:
        """Raises FatalError where the workspace does not let us in, TransientError where it is away."""
        try:
            self.store.search_experiments(max_results=1)
        except Exception as error:
            ours = to_worker_error(error, "asking Databricks for experiments")
            if is_access(error) or isinstance(ours, PoisonError):
                raise FatalError(
                    f"{ours}. Set DATABRICKS_HOST and DATABRICKS_TOKEN, or name a profile that "
                    "`databricks auth login` has made: databricks://profile"
                ) from error
            raise ours from error

    def write(self, doing: str, request: Callable[[Any], _T]) -> _T:
        """Anything that MLflow's store does."""
        return self._asked(doing, lambda: request(self.store))

    def info(self, trace_id: str) -> TraceInfo | None:
        """A trace's record, None where there is none."""
        try:
            info: TraceInfo = self._asked(
                "looking up traces", lambda: self.store.get_trace_info(trace_id)
            )
        except PoisonError as error:
            if error.__cause__ is not None and is_missing(error.__cause__):
                return None
            raise
        return info

    def search(self, condition: str, experiment_ids: Sequence[str]) -> list[TraceInfo]:
        """The newest traces for which it is true."""
        self._searches.wait()
        return self._asked(
            "searching a client request id",
            lambda: newest_of(self.store, condition, experiment_ids),
        )

    def spans(self, info: TraceInfo) -> list[Span]:
        """What its file has; none where there is no file."""

        def read() -> list[Span]:
            try:
                return list(TraceData.from_dict(self._file(info).download_trace_data()).spans)
            except MlflowTraceDataNotFound:
                return []  # its record was written, its spans were not

        return self._asked(f"reading trace {info.trace_id}", read, places=FILE_REQUESTS)

    def upload(self, info: TraceInfo, spans: Sequence[Span]) -> None:
        """Write its file."""
        data = TraceData(spans=list(spans)).to_dict()
        text = json.dumps(data, cls=TraceJSONEncoder, ensure_ascii=False)
        doing = f"storing spans of trace {info.trace_id}"
        self._asked(doing, lambda: self._file(info).upload_trace_data(text), places=FILE_REQUESTS)

    def _asked(self, doing: str, request: Callable[[], _T], *, places: int = 1) -> _T:
        self._pace.wait(places)
        try:
            return request()
        except Exception as error:
            ours = to_worker_error(error, doing)
            if any(_is_permanent(cause) for cause in causes(error)):
                raise PoisonError(str(ours)) from error
            if isinstance(ours, TransientError) and (closed_s := self._pace.closed_s()):
                raise TransientError(str(ours), retry_after_s=closed_s) from error
            raise ours from error

    def _credentials(self) -> Any:
        """Where to ask, and as whom; tokens are the SDK's, which makes new ones in time."""
        until_s, creds = self._kept
        if time.monotonic() >= until_s:
            creds = get_databricks_host_creds(self._uri)  # asks the workspace about itself
            self._kept = (time.monotonic() + CREDENTIALS_S, creds)
        return creds

    def _file(self, info: TraceInfo) -> Any:
        folder: Any = add_databricks_profile_info_to_artifact_uri(
            get_artifact_uri_for_trace(info), self._uri
        )
        return get_artifact_repository(folder, tracking_uri=self._uri)


class _Pace:
    """Lets so many requests a second through; the others wait in their threads."""

    def __init__(self, per_s: float, *, closed_max_s: float = 0.0) -> None:
        self._pace = RequestPace(per_s, closed_max_s=closed_max_s)
        self._lock = threading.Lock()

    def wait(self, places: int = 1) -> None:
        """Until so many more may go. Raises TransientError while the workspace wants to be left alone."""
        with self._lock:
            now_s = time.monotonic()
            wait_s = max(self._pace.take(now_s) for _ in range(places))
        time.sleep(wait_s)
        if closed_s := self.closed_s():
            raise TransientError(
                f"Databricks wants to be left alone for {closed_s:.0f} s more",
                retry_after_s=closed_s,
            )

    def close(self, for_s: float) -> None:
        """The workspace wants to be left alone for so long."""
        with self._lock:
            self._pace.close(time.monotonic(), for_s)

    def closed_s(self) -> float:
        """For how much longer it does."""
        return self._pace.closed_s(time.monotonic())


def _is_permanent(error: BaseException) -> bool:
    answer: Any = getattr(error, "response", None)
    return isinstance(error, requests.HTTPError) and answer.status_code in _PERMANENT
