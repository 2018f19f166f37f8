"""Into an MLflow tracking server: its REST API for the traces' records, OTLP for their spans.

MLflow's own client makes the requests, so that credentials, TLS settings and header plugins work as
they do in MLflow's SDK. A trace's duration may read one millisecond longer than its root span's:
the server rounds start and end one by one, and MLflow's SDK sees the same when its two writes meet.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, TypeVar

from mlflow.entities import Span, TraceInfo
from mlflow.entities.assessment import Assessment
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracing.constant import TraceTagKey
from mlflow.version import VERSION
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from packaging.version import Version

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.services.mlflow_backend import calls, disturbed_ms
from spanferry_worker.services.mlflow_errors import is_access
from spanferry_worker.services.mlflow_private import attribute_texts, credentials
from spanferry_worker.services.mlflow_server import Server
from spanferry_worker.services.mlflow_text import Limits
from spanferry_worker.telemetry import LogEvent

__all__ = ["HTTP_LIMITS", "HttpBackend"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

HTTP_LIMITS: Final = Limits(
    # What MLflow's protocol carries, and how deep its server's protobuf reader goes.
    tag_value_chars=4096,
    metadata_value_chars=250,
    json_depth=25,
)
OLDEST_SERVER: Final = Version("3.17")
CALL_BYTES_MAX: Final = 4_000_000
"""Span text in one OTLP request, before gzip: proxies like to refuse larger bodies."""
CALL_TRACES_MAX: Final = 100
IDS_MAX: Final = 100
"""Trace ids in one request."""
STARTS_AT_ONCE: Final = 8
"""The server takes one trace's record a request; above this its throughput stays the same."""
EXPERIMENTS_MAX: Final = 1000


class HttpBackend:
    """Backend over a tracking server of MLflow 3.17 or later."""

    limits = HTTP_LIMITS
    bulk = None
    writing = nullcontext()
    rounding_ms = 1

    def __init__(self, uri: str) -> None:
        """Checks that an MLflow server answers which takes spans. Raises Transient- or FatalError."""
        self._server = Server(uri.rstrip("/"))
        version = self._server.version()
        if version < OLDEST_SERVER:
            raise FatalError(
                f"{self._server.uri} runs MLflow {version}; spanferry needs {OLDEST_SERVER} or later: "
                "upgrade the server, or let the worker write into its database"
            )
        if version.release[:2] > Version(VERSION).release[:2]:
            _logger.warning(
                "the server runs MLflow %s, this worker knows %s",
                version,
                VERSION,
                extra=LogEvent.STORE_VERSION(),
            )
        self._store = RestStore(partial(credentials, self._server.uri))
        self._check_api()
        self._starters = ThreadPoolExecutor(STARTS_AT_ONCE, thread_name_prefix="mlflow-start")

    @property
    def store(self) -> Any:
        return self._store

    def ask(self, doing: str, request: Callable[[Any], _T]) -> _T:
        return self._server.call(doing, lambda: request(self._store))

    def infos(self, trace_ids: Sequence[str]) -> dict[str, TraceInfo]:
        found: dict[str, TraceInfo] = {}
        for start in range(0, len(trace_ids), IDS_MAX):
            ids = list(trace_ids[start : start + IDS_MAX])
            request = partial(self._store.batch_get_trace_infos, ids)
            for info in self._server.call("looking up traces", request):
                found[info.trace_id] = info
        return found

    def spans(self, info: TraceInfo) -> list[Span]:
        if TraceTagKey.SPANS_LOCATION not in info.tags:
            return []  # its record was written, its spans were not
        if (stored := self._server.stored_spans(info.trace_id)) is not None:
            return [Span.from_dict(span) for span in stored]
        trace = self._server.call(
            f"reading trace {info.trace_id}",
            lambda: self._store.get_trace(info.trace_id, allow_partial=True),
        )
        return list(trace.data.spans)

    def write_new(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        list(self._starters.map(self.put_info, infos))
        for experiment_id, some in calls(
            infos, spans, bytes_max=CALL_BYTES_MAX, traces_max=CALL_TRACES_MAX
        ):
            self.add_spans(experiment_id, some)
        disturbed = [i for i in infos if disturbed_ms(i, spans[i.trace_id]) > self.rounding_ms]
        list(self._starters.map(self.put_info, disturbed))

    def add_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        scope.spans.extend(_to_proto(span) for span in spans)
        self._server.send_spans(experiment_id, request)

    def put_info(self, info: TraceInfo) -> None:
        self._server.call(f"storing trace {info.trace_id}", lambda: self._store.start_trace(info))

    def add_assessment(self, assessment: Assessment) -> None:
        try:
            self._server.call(
                f"storing assessment {assessment.assessment_id}",
                lambda: self._store.create_assessment(assessment),
            )
        except WorkerError:
            trace_id = assessment.trace_id or ""
            info = self.infos([trace_id]).get(trace_id)
            known = {a.assessment_id for a in info.assessments} if info else set[str | None]()
            if assessment.assessment_id not in known:
                raise
            # another worker stored the same assessment between our look and our write

    def owners(self, assessment_ids: Sequence[str]) -> dict[str, str] | None:  # noqa: ARG002
        return None  # the API finds assessments by their trace only

    def newest_traces(
        self,
        client_request_id: str,
        experiment_ids: Sequence[str],
        around_ms: int,  # noqa: ARG002 - the server sorts
    ) -> list[TraceInfo]:
        """Searches the experiments that this worker writes to, then all that are active."""
        quote = '"' if "'" in client_request_id else "'"
        if quote in client_request_id:
            return []  # MLflow's filter language cannot say it
        condition = f"trace.client_request_id = {quote}{client_request_id}{quote}"
        found = self._search(condition, list(experiment_ids))
        if found:
            return found
        every = self._server.call(
            "listing experiments",
            lambda: self._store.search_experiments(max_results=EXPERIMENTS_MAX),
        )
        others = {experiment.experiment_id for experiment in every} - set(experiment_ids)
        return self._search(condition, sorted(others))

    def close(self) -> None:
        self._starters.shutdown(wait=False, cancel_futures=True)

    def _search(self, condition: str, experiment_ids: list[str]) -> list[TraceInfo]:
        if not experiment_ids:
            return []
        infos, _ = self._server.call(
            "searching a client request id",
            lambda: self._store.search_traces(
                locations=experiment_ids,
                filter_string=condition,
                max_results=5,
                order_by=["timestamp_ms DESC"],
            ),
        )
        return list(infos)

    def _check_api(self) -> None:
        """An empty OTLP request is taken without a trace of it by every server that takes spans."""
        request = ExportTraceServiceRequest()
        request.resource_spans.add()
        try:
            self._server.call(
                "asking for the default experiment", lambda: self._store.get_experiment("0")
            )
            self._server.send_spans("0", request)
        except PoisonError as error:
            raise FatalError(f"{self._server.uri} does not take traces: {error}") from error
        except TransientError as error:
            if isinstance(error.__cause__, MlflowException) and is_access(error.__cause__):
                raise FatalError(self._server.refused(403)) from error
            raise


def _to_proto(span: Span) -> Any:
    """OTLP of a span. An integer beyond 64 bits, which OTLP cannot carry, goes as its digits."""
    try:
        return span.to_otel_proto()
    except ValueError:
        attributes: dict[str, Any] = dict(attribute_texts(span))
        for key, text in attributes.items():
            attributes[key] = json.dumps(_fitting(json.loads(text)), ensure_ascii=False)
        data = span.to_dict()
        data["attributes"] = attributes
        return Span.from_dict(data).to_otel_proto()


def _fitting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fitting(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fitting(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value
