"""Reading the account back through MLflow's own API: what is there, whole, once."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Trace

from tests.end_to_end.program import Expected

__all__ = ["assert_stored", "stored_numbers", "traces_of", "wait_for_traces"]

POLL_S = 0.5


def _experiment_id(client: MlflowClient, experiment: str) -> str | None:
    found = client.get_experiment_by_name(experiment)
    return found.experiment_id if found else None


def stored_numbers(tracking_uri: str, experiment: str) -> Counter[int]:
    """How often each trace number is stored, by its tag; without reading spans."""
    client = MlflowClient(tracking_uri)
    experiment_id = _experiment_id(client, experiment)
    # By trace id: while traces are being stored the pages shift, and one may be listed on two.
    by_trace: dict[str, int] = {}
    token: str | None = None
    while experiment_id is not None:
        page = client.search_traces(
            locations=[experiment_id], include_spans=False, max_results=500, page_token=token
        )
        by_trace |= {trace.info.trace_id: int(trace.info.tags["number"]) for trace in page}
        token = page.token
        if not token:
            break
    return Counter(by_trace.values())


def wait_for_traces(
    tracking_uri: str,
    experiment: str,
    count: int,
    *,
    timeout_s: float = 120.0,
    also: Callable[[], object] = lambda: None,
) -> Counter[int]:
    """Poll until so many traces are stored, or the time is over; what is stored then."""
    deadline = time.monotonic() + timeout_s
    while True:
        numbers = stored_numbers(tracking_uri, experiment)
        if numbers.total() >= count or time.monotonic() > deadline:
            return numbers
        also()
        time.sleep(POLL_S)


def traces_of(
    tracking_uri: str, experiment: str, count: int, *, timeout_s: float = 150.0
) -> dict[int, Trace]:
    """Every trace with its spans, by number, once so many are whole.

    A trace is listed as soon as its row is there; its spans come a moment later, as natively.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = _whole_traces(tracking_uri, experiment)
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def _whole_traces(tracking_uri: str, experiment: str) -> dict[int, Trace]:
    mlflow.set_tracking_uri(tracking_uri)
    client = MlflowClient(tracking_uri)
    experiment_id = _experiment_id(client, experiment)
    found: dict[int, Trace] = {}
    token: str | None = None
    while True:
        page = client.search_traces(
            locations=[experiment_id], include_spans=True, max_results=100, page_token=token
        )
        found |= {int(trace.info.tags["number"]): trace for trace in page}
        token = page.token
        if not token:
            return found


def assert_stored(found: dict[int, Trace], wanted: Iterable[Expected]) -> None:
    """Tree, inputs, outputs, status, tags and metadata of every trace are as they must be."""
    for one in wanted:
        trace = found[one.number]
        try:
            _assert_trace(trace, one)
        except AssertionError as error:
            raise AssertionError(f"trace {one.number} ({one.kind}): {error}") from error


def _assert_trace(trace: Trace, wanted: Expected) -> None:
    info = trace.info
    names = {span.span_id: span.name for span in trace.data.spans}
    tree = {
        span.name: (
            names[span.parent_id] if span.parent_id else None,
            span.span_type,
            span.status.status_code.value,
        )
        for span in trace.data.spans
    }
    assert tree == wanted.spans
    assert len(trace.data.spans) == len(wanted.spans), "a span is stored twice"
    [root] = [span for span in trace.data.spans if span.parent_id is None]
    assert root.inputs == wanted.inputs
    assert root.outputs == wanted.outputs
    assert info.state.value == wanted.state
    assert info.tags["kind"] == wanted.kind
    assert info.tags["mlflow.traceName"] == "root"
    assert info.client_request_id == f"req-{wanted.number}"
    metadata = info.trace_metadata
    assert metadata["mlflow.trace.session"] == f"session-{wanted.number // 10}"
    assert metadata["mlflow.trace.user"] == f"user-{wanted.number % 7}"
    assert metadata["build"] == "e2e"
    assert metadata["mlflow.source.type"] == "LOCAL"
    assert "mlflow.source.git.commit" in metadata
    assert info.execution_duration is not None
    if wanted.kind == "error":
        events = {event.name for span in trace.data.spans for event in span.events}
        assert events == {"exception"}
