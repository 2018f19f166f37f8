"""Into an MLflow tracking server: its REST API for the traces' records, OTLP for their spans.

Requests go in as those of MLflow's own client do (see mlflow_access). The records of new traces come
first, many at once; then the spans of up to a hundred traces a request. In the other order the server
would take three times as long. A trace's duration may read one millisecond longer than its root span's:
the server rounds start and end one by one, and MLflow's SDK sees the same when its two writes meet.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from operator import methodcaller
from typing import Any, Final, TypeVar

from mlflow.entities import Span, TraceInfo
from mlflow.entities.assessment import Assessment
from mlflow.exceptions import MlflowException
from mlflow.tracing.constant import SpanAttributeKey, TraceMetadataKey, TraceTagKey
from mlflow.tracing.utils import aggregate_cost_from_span_nodes
from mlflow.version import VERSION
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from packaging.version import Version

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.services.mlflow_archived_traces import ArchivedTraces
from spanferry_worker.services.mlflow_backend import disturbed_ms, newest_of, quoted
from spanferry_worker.services.mlflow_derive import aggregation_nodes
from spanferry_worker.services.mlflow_errors import RefusedError, SuspectedError, is_access
from spanferry_worker.services.mlflow_loads import SpanSender
from spanferry_worker.services.mlflow_portions import in_portions
from spanferry_worker.services.mlflow_records import RecordSender
from spanferry_worker.services.mlflow_server import Server
from spanferry_worker.services.mlflow_text import Limits
from spanferry_worker.stages.requests import RequestPolicy
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
IDS_MAX: Final = 100
"""Trace ids in one request."""
EXPERIMENTS_MAX: Final = 1000
BEGUN_MAX: Final = 10_000


class HttpBackend:
    """Backend over a tracking server of MLflow 3.17 or later."""

    limits = HTTP_LIMITS
    bulk = None
    archived: ArchivedTraces | None = None
    writing = nullcontext()
    rounding_ms = 1

    def __init__(self, uri: str, policy: RequestPolicy | None = None) -> None:
        """Checks that an MLflow server answers which takes spans. Raises Transient- or FatalError."""
        policy = policy or RequestPolicy()
        self._server = Server(uri.rstrip("/"), policy)
        self._sender = SpanSender(self._server, policy)
        self._records = RecordSender(self._server)
        self._begun: dict[str, None] = {}
        """New traces of writes that failed half-way: those that have no spans yet are new still."""
        try:
            _check_version(self._server)
            _check_api(self._server)
        except BaseException:
            self._server.close()
            raise

    @property
    def store(self) -> Any:
        return self._server.store

    def ask(self, doing: str, request: Callable[[Any], _T]) -> _T:
        return self._server.call(doing, lambda: request(self.store))

    def infos(self, trace_ids: Sequence[str]) -> dict[str, TraceInfo]:
        found: dict[str, TraceInfo] = {}
        for some in in_portions(trace_ids, IDS_MAX):
            ids = list(some)
            for info in self.ask("looking up traces", methodcaller("batch_get_trace_infos", ids)):
                if info.trace_id not in self._begun or TraceTagKey.SPANS_LOCATION in info.tags:
                    found[info.trace_id] = info
        return found

    def spans(self, info: TraceInfo) -> list[Span]:
        if TraceTagKey.SPANS_LOCATION not in info.tags:
            return []  # its record was written, its spans were not
        return _stored_spans(self._server, info.trace_id)

    def write_new(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        self._begin(infos)
        refused, aside = self._records.put(infos)
        experiments = {
            info.trace_id: str(info.experiment_id)
            for info in infos
            if info.trace_id not in refused.keys() | aside.keys()
        }
        loads = self._sender.send(experiments, spans)
        refused |= loads.refused
        again: list[TraceInfo] = []
        for info in infos:
            if info.trace_id in refused or info.trace_id in aside:
                continue
            if info.trace_id in loads.cut:
                again.append(self._with_cost(info))
            elif disturbed_ms(info, spans[info.trace_id]) > self.rounding_ms:
                again.append(info)
        put_again = self._records.put(again)
        refused |= put_again.refused
        aside |= put_again.aside
        for info in infos:
            if info.trace_id not in aside:
                self._begun.pop(info.trace_id, None)
        _raise_for(aside)
        if refused:
            raise RefusedError(refused)

    def _begin(self, infos: Sequence[TraceInfo]) -> None:
        for info in infos:
            self._begun[info.trace_id] = None
        if (over := len(self._begun) - BEGUN_MAX) > 0:
            for oldest in list(self._begun)[:over]:  # at once: other threads change it
                self._begun.pop(oldest, None)

    def add_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        by_trace: dict[str, list[Span]] = {}
        for span in spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        loads = self._sender.send(dict.fromkeys(by_trace, experiment_id), by_trace)
        for error in loads.refused.values():
            raise error

    def put_info(self, info: TraceInfo) -> None:
        refused, aside = self._records.put([info])
        for error in refused.values():
            raise error
        _raise_for(aside)

    def add_assessment(self, assessment: Assessment) -> None:
        try:
            self.ask(
                f"storing assessment {assessment.assessment_id}",
                lambda store: store.create_assessment(assessment),
            )
        except WorkerError:
            trace_id = assessment.trace_id or ""
            info = self.infos([trace_id]).get(trace_id)
            known = {a.assessment_id for a in info.assessments} if info else set[str | None]()
            if assessment.assessment_id not in known:
                raise
            # another worker stored the same assessment between our look and our write, or the answer
            # to our own write was lost

    def owners(self, assessment_ids: Sequence[str]) -> dict[str, str] | None:  # noqa: ARG002
        return None  # the API finds assessments by their trace only

    def newest_traces(
        self,
        client_request_id: str,
        experiment_ids: Sequence[str],
        around_ms: int,  # noqa: ARG002 - the server sorts
    ) -> list[TraceInfo]:
        """Searches the experiments that this worker writes to, then all that are active."""
        request_id = quoted(client_request_id)
        if request_id is None:
            return []
        condition = f"trace.client_request_id = {request_id}"
        found = self._search(condition, list(experiment_ids))
        if found:
            return found
        every = self.ask(
            "listing experiments",
            lambda store: store.search_experiments(max_results=EXPERIMENTS_MAX),
        )
        others = {experiment.experiment_id for experiment in every} - set(experiment_ids)
        return self._search(condition, sorted(others))

    def close(self) -> None:
        self._server.close()

    def _search(self, condition: str, experiment_ids: list[str]) -> list[TraceInfo]:
        if not experiment_ids:
            return []
        return self.ask(
            "searching a client request id",
            lambda store: newest_of(store, condition, experiment_ids),
        )

    def _with_cost(self, info: TraceInfo) -> TraceInfo:
        """With the cost of all stored spans: MLflow adds up only those that came in one request."""
        stored = _stored_spans(self._server, info.trace_id)
        nodes = aggregation_nodes(stored, SpanAttributeKey.LLM_COST)
        if cost := aggregate_cost_from_span_nodes(nodes):
            info.trace_metadata[TraceMetadataKey.COST] = json.dumps(cost)
        return info


def _raise_for(aside: Mapping[str, TransientError]) -> None:
    """All else is stored: these are for another write, after the longest wait that one of them asks for."""
    if aside:
        error = max(aside.values(), key=lambda one: one.retry_after_s or 0.0)
        raise SuspectedError(str(error), retry_after_s=error.retry_after_s) from error


def _stored_spans(server: Server, trace_id: str) -> list[Span]:
    if (stored := server.stored_spans(trace_id)) is not None:
        return [Span.from_dict(span) for span in stored]
    trace = server.call(
        f"reading trace {trace_id}",
        lambda: server.store.get_trace(trace_id, allow_partial=True),
    )
    return list(trace.data.spans)


def _check_version(server: Server) -> None:
    version = server.version()
    if version < OLDEST_SERVER:
        raise FatalError(
            f"{server.uri} runs MLflow {version}; spanferry needs {OLDEST_SERVER} or later: "
            "upgrade the server, or let the worker write into its database"
        )
    if version.release[:2] > Version(VERSION).release[:2]:
        _logger.warning(
            "the server runs MLflow %s, this worker knows %s",
            version,
            VERSION,
            extra=LogEvent.STORE_VERSION(),
        )


def _check_api(server: Server) -> None:
    """An empty OTLP request is taken without a trace of it by every server that takes spans.

    Where it is not taken as gzip, spans go as they are: a proxy may have its own mind.
    """
    request = ExportTraceServiceRequest()
    request.resource_spans.add()
    try:
        server.call("asking for the default experiment", lambda: server.store.get_experiment("0"))
        try:
            server.send_spans("0", request)
        except PoisonError:
            server.compresses = False
            server.send_spans("0", request)
    except PoisonError as error:
        raise FatalError(f"{server.uri} does not take traces: {error}") from error
    except TransientError as error:
        if isinstance(error.__cause__, MlflowException) and is_access(error.__cause__):
            raise FatalError(server.refused(403)) from error
        raise
