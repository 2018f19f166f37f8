"""What the writer needs of a way into MLflow: straight into its database, or through its server."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

from mlflow.entities import Span, TraceInfo, TraceState
from mlflow.entities.assessment import Assessment

from spanferry_worker.services.mlflow_archived_traces import ArchivedTraces
from spanferry_worker.services.mlflow_bulk import BulkInsert
from spanferry_worker.services.mlflow_private import attribute_texts
from spanferry_worker.services.mlflow_text import Limits

_T = TypeVar("_T")

__all__ = [
    "Backend",
    "calls",
    "disturbed_ms",
    "newest_of",
    "quoted",
    "span_chars",
    "traces_of_request",
]

CANDIDATES_MAX: Final = 5
"""Traces of one client request id that are asked whether they have an assessment already."""


class Backend(Protocol):
    """One open MLflow store. Blocking, thread-safe; raises TransientError and PoisonError only."""

    archived: ArchivedTraces | None
    """Traces whose spans lie outside the database; None where that is a server's matter."""

    @property
    def limits(self) -> Limits: ...

    @property
    def bulk(self) -> BulkInsert | None:
        """The fast way in for new traces; None where there is none."""
        ...

    @property
    def writing(self) -> AbstractContextManager[object]:
        """Held around every write: SQLite takes one writer, while others look up and make rows. Its
        holder may take it again."""
        ...

    @property
    def rounding_ms(self) -> int:
        """By how much a trace's times may differ from its root span's after write_new."""
        ...

    @property
    def store(self) -> Any:
        """MLflow's own tracking store, for experiments and models."""
        ...

    def ask(self, doing: str, request: Callable[[Any], _T]) -> _T:
        """Run one request on `store`. `doing` begins the message of an error."""
        ...

    def infos(self, trace_ids: Sequence[str]) -> dict[str, TraceInfo]:
        """Those of the traces that are stored, with tags, metadata and assessments."""
        ...

    def spans(self, info: TraceInfo) -> list[Span]:
        """Every stored span of a stored trace, as MLflow has translated it."""
        ...

    def write_new(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        """Store traces that are not there yet, each with its spans by trace id.

        After a return every field is as given (times to within rounding_ms), after an error any
        part of it may be stored.
        """
        ...

    def add_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """Add spans to a trace that is stored."""
        ...

    def put_info(self, info: TraceInfo) -> None:
        """Write the record of a stored trace over the one that is there."""
        ...

    def add_assessment(self, assessment: Assessment) -> None:
        """Add one assessment to a stored trace, and mark the one it overrides."""
        ...

    def owners(self, assessment_ids: Sequence[str]) -> dict[str, str] | None:
        """Trace ids by assessment id, of those stored; None where the store cannot say."""
        ...

    def newest_traces(
        self, client_request_id: str, experiment_ids: Sequence[str], around_ms: int
    ) -> list[TraceInfo]:
        """Traces of that client request id, newest first."""
        ...

    def close(self) -> None:
        """Release connections. Never raises."""
        ...


def calls(
    infos: Iterable[TraceInfo],
    spans: Mapping[str, Sequence[Span]],
    *,
    bytes_max: int,
    traces_max: int,
) -> list[tuple[str, list[Span]]]:
    """Experiment ids and the spans of whole traces, put together up to the size of one call."""
    result: list[tuple[str, list[Span]]] = []
    current: dict[str, tuple[list[Span], int, int]] = {}
    for info in infos:
        experiment_id = str(info.experiment_id)
        mine = spans[info.trace_id]
        size = sum(map(span_chars, mine))
        some, size_so_far, traces = current.get(experiment_id, ([], 0, 0))
        if not some or size_so_far + size > bytes_max or traces >= traces_max:
            some, size_so_far, traces = [], 0, 0
            result.append((experiment_id, some))
        some.extend(mine)
        current[experiment_id] = (some, size_so_far + size, traces + 1)
    return result


def disturbed_ms(info: TraceInfo, spans: Sequence[Span]) -> int:
    """How much log_spans disturbs the record that start_trace has stored, in milliseconds.

    It stretches the trace over all of its spans, where MLflow's SDK writes the root's own times last.
    It also rounds start and end one by one, so the answer is often 1 with nothing outside the root.
    A trace that it declares finished because its root is there, ended or not, counts as a second.
    """
    if info.state is TraceState.IN_PROGRESS and any(span.parent_id is None for span in spans):
        return 1000
    starts = min(span.start_time_ns for span in spans) // 1_000_000
    ends = [span.end_time_ns for span in spans if span.end_time_ns is not None]
    earlier = max(0, info.request_time - starts)
    if info.execution_duration is None:
        return earlier + (1000 if ends else 0)
    end = max(ends, default=0) // 1_000_000
    return earlier + max(0, end - info.request_time - info.execution_duration)


def span_chars(span: Span) -> int:
    """Text of a span's attributes: what it weighs in a call."""
    return sum(len(text) for text in attribute_texts(span).values())


def traces_of_request(
    backend: Backend, request_id: str, experiment_ids: Sequence[str], created_ns: int
) -> list[TraceInfo]:
    """The newest traces that feedback on this client request id may be for, the likeliest first."""
    found = backend.newest_traces(request_id, experiment_ids, created_ns // 1_000_000)
    return found[:CANDIDATES_MAX]


def quoted(text: str) -> str | None:
    """A text in MLflow's filter language, which has no way to say both kinds of quotes: then None."""
    quote = '"' if "'" in text else "'"
    return None if quote in text else f"{quote}{text}{quote}"


def newest_of(store: Any, condition: str, experiment_ids: Sequence[str]) -> list[TraceInfo]:
    """What a tracking server finds for a filter: as many as anybody asks for, the newest first."""
    infos, _ = store.search_traces(
        locations=list(experiment_ids),
        filter_string=condition,
        max_results=CANDIDATES_MAX,
        order_by=["timestamp_ms DESC"],
    )
    return list(infos)
