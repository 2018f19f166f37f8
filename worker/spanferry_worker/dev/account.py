"""Whether what was sent is what MLflow has: the demo's books."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from spanferry_worker.dev.traffic import SIZES, Reply
from spanferry_worker.services.mlflow_environment import prepare_environment

__all__ = ["Balance", "Cost", "Metered", "Stored", "balance", "costs", "percentile", "read_back"]

_SERVER_ERROR = 500


class Metered(Struct, frozen=True):
    """What the app measured of one request."""

    spans: int
    ns: int


class Stored(Struct, frozen=True):
    """What MLflow's API returns of one trace."""

    trace_id: str
    request_id: str
    spans: int
    failed: bool
    ratings: int


class Balance(Struct, frozen=True):
    """The outcome. Nothing is wrong where `wrong` is empty: request ids, and what is wrong there."""

    sent: int
    stored: int
    complete: int
    ratings_sent: int
    ratings_stored: int
    wrong: dict[str, str]


class Cost(Struct, frozen=True):
    """What tracing took of the request's own thread, for the requests of one size."""

    size: str
    requests: int
    p50_ms: float
    p99_ms: float


def read_back(tracking_uri: str, experiment: str, *, spans: bool) -> list[Stored]:
    """Every trace of the experiment through MLflow's API; without `spans` their number is 0."""
    prepare_environment()
    from mlflow import MlflowClient  # noqa: PLC0415  takes a second
    from mlflow.entities import TraceState  # noqa: PLC0415

    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    stored: list[Stored] = []
    token: str | None = None
    while found is not None:
        page: Any = client.search_traces(
            locations=[found.experiment_id], max_results=100, page_token=token, include_spans=spans
        )
        stored += [
            Stored(
                trace.info.trace_id,
                trace.info.client_request_id or "",
                len(trace.data.spans),
                trace.info.state is TraceState.ERROR,
                len(trace.info.assessments),
            )
            for trace in page
        ]
        token = page.token
        if not token:
            break
    return stored


def balance(
    replies: Sequence[Reply], metered: Mapping[str, Metered], stored: Iterable[Stored]
) -> Balance:
    """Compare, by request id."""
    by_request: dict[str, list[Stored]] = {}
    for trace in stored:
        by_request.setdefault(trace.request_id, []).append(trace)
    wrong: dict[str, str] = {}
    for reply in replies:
        request_id = reply.request.request_id
        word = _fault(reply, metered.get(request_id), by_request.get(request_id, []))
        if word:
            wrong[request_id] = word
    traces = [traces[0] for traces in by_request.values()]
    return Balance(
        sent=len(replies),
        stored=len(traces),
        complete=len(replies) - len(wrong),
        ratings_sent=sum(reply.request.helpful is not None for reply in replies),
        ratings_stored=sum(trace.ratings for trace in traces),
        wrong=wrong,
    )


def _fault(reply: Reply, metered: Metered | None, traces: Sequence[Stored]) -> str:
    """What is wrong with one request's trace, or nothing."""
    if reply.status == 0 or metered is None:
        return "the app did not answer"
    if len(traces) != 1:
        return f"{len(traces)} traces in MLflow"
    trace = traces[0]
    ratings = int(reply.request.helpful is not None)
    faults = (
        (trace.spans != metered.spans, f"{trace.spans} of {metered.spans} spans"),
        (trace.failed != (reply.status >= _SERVER_ERROR), "the wrong status"),
        (trace.ratings != ratings, f"{trace.ratings} of {ratings} ratings"),
    )
    return "; ".join(f"{trace.trace_id} has {text}" for wrong, text in faults if wrong)


def costs(replies: Sequence[Reply], metered: Mapping[str, Metered]) -> list[Cost]:
    """The cost by size, smallest first."""
    result: list[Cost] = []
    for size in SIZES:
        ms = sorted(
            metered[reply.request.request_id].ns / 1e6
            for reply in replies
            if reply.request.size == size and reply.request.request_id in metered
        )
        if ms:
            result.append(Cost(size, len(ms), percentile(ms, 0.5), percentile(ms, 0.99)))
    return result


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ordered values do not exceed; of few values the largest."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
