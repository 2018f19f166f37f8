"""Sampling by size, from an app over Kafka into MLflow: what is stored, what it says, how it is found."""

import time
from collections.abc import Callable

import mlflow
import pytest
from mlflow.entities import Trace

import spanferry
from tests.end_to_end.conftest import Pipeline
from tests.services.worker import SpanferryWorker

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

BIG = {"document": "tea? " * 60_000}
SMALL = {"question": "tea?"}


def call(kind: str, payload: object, *, wrong: bool = False) -> str:
    with spanferry.start_span(kind) as root:
        root.set_inputs(payload)
        with spanferry.start_span("child") as child:
            child.set_outputs(payload)
            if wrong:
                child.set_status("ERROR")
        root.set_outputs({"answer": "yes"})
        spanferry.update_current_trace(tags={"kind": kind})
    return root.trace_id


def wait_for(found: Callable[[], list[Trace]], count: int) -> list[Trace]:
    deadline = time.monotonic() + 150
    while True:
        traces = found()
        if len(traces) >= count or time.monotonic() > deadline:
            return traces
        time.sleep(0.3)


def test_big_payloads_are_cut_errors_are_whole_and_all_can_be_found(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small a target that a big trace has one chance in three hundred thousand to be kept whole.
    pipeline.worker("--set=sample.target_bytes=1", "--set=sample.salt=test")
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0.999999999")
    spanferry.enable(
        bootstrap_servers=pipeline.kafka.bootstrap_servers,
        topic=pipeline.topic,
        experiment=pipeline.experiment,
        mlflow=False,
    )
    try:
        small, big, wrong = call("small", SMALL), call("big", BIG), call("wrong", BIG, wrong=True)
        assert spanferry.flush(100)
    finally:
        spanferry.disable()
    mlflow.set_tracking_uri(pipeline.tracking_uri)

    def search(filter_string: str | None = None) -> list[Trace]:
        experiment = mlflow.get_experiment_by_name(pipeline.experiment)
        if experiment is None:
            return []
        return mlflow.search_traces(
            locations=[experiment.experiment_id], filter_string=filter_string, return_type="list"
        )

    assert len(wait_for(search, 3)) == 3
    mark = "metadata.`spanferry.sampling.{}` = '{}'".format
    [found] = search(mark("rule", "errors"))
    assert found.info.trace_id == wrong
    assert found.data.spans[0].inputs == BIG
    assert "spanferry.sampling.outcome" not in found.info.trace_metadata
    skeletons = search(mark("outcome", "skeleton"))
    assert {trace.info.trace_id for trace in skeletons} == {small, big}
    [found] = [trace for trace in skeletons if trace.info.trace_id == big]
    assert isinstance(found.data.spans[0].inputs, str)
    assert found.data.spans[0].inputs.startswith('{"document":"tea? ')
    assert len(found.data.spans) == 2
    about = found.info.trace_metadata
    assert int(about["spanferry.sampling.size_bytes"]) > 500_000
    assert float(about["spanferry.sampling.weight"]) == pytest.approx(1.0)
    assert "spanferry.sampling.upstream" not in about
    [found] = [trace for trace in skeletons if trace.info.trace_id == small]
    assert found.data.spans[0].inputs == SMALL


RULES = """[{"name": "checks", "names": ["check"], "action": "drop"},
 {"name": "rest", "action": "skeleton"}]"""


def test_what_was_cut_or_dropped_stays_so_after_a_restart_until_feedback_brings_it_back(
    pipeline: Pipeline,
) -> None:
    options = (f"--set=sample.rules={RULES}", "--set=assemble.idle_s=1")
    first = pipeline.worker(*options)
    spanferry.enable(
        bootstrap_servers=pipeline.kafka.bootstrap_servers,
        topic=pipeline.topic,
        experiment=pipeline.experiment,
        mlflow=False,
    )
    try:
        kept, judged = call("kept", BIG), call("judged", BIG)
        gone, missed = call("check", BIG), call("check", BIG)
        assert spanferry.flush(100)
        wait_until(lambda: decided(first, outcome="skeleton") + decided(first, outcome="drop") == 4)
        first.stop()
        second = pipeline.worker(*options)
        call_late(kept)
        call_late(gone)
        for trace_id in (judged, missed):
            spanferry.log_feedback(trace_id=trace_id, name="helpful", value=False)
        assert spanferry.flush(100)
        wait_until(lambda: decided(second, reason="restored") == 2)
        wait_until(lambda: decided(second, reason="earlier") == 2)
    finally:
        spanferry.disable()
    second.stop()  # which writes what is decided
    mlflow.set_tracking_uri(pipeline.tracking_uri)
    experiment = mlflow.get_experiment_by_name(pipeline.experiment)
    traces = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    found = {trace.info.trace_id: trace for trace in traces}
    assert found.keys() == {kept, judged, missed}
    assert {span.name for span in found[kept].data.spans} == {"kept", "child", "late"}
    assert all("spanferry.cut" in span.attributes for span in found[kept].data.spans)
    for trace_id in (judged, missed):
        spans = found[trace_id].data.spans
        assert [span.attributes.get("spanferry.cut") for span in spans] == [None, None]
        assert spans[0].inputs == BIG
        assert [one.name for one in found[trace_id].info.assessments] == ["helpful"]
        about = found[trace_id].info.trace_metadata
        assert about["spanferry.sampling.reason"] == "restored"


def call_late(trace_id: str) -> None:
    """One more span of a trace, from a service that is late."""
    parent = f"00-{trace_id.removeprefix('tr-')}-{'7' * 16}-01"
    with (
        spanferry.set_tracing_context_from_http_request_headers({"traceparent": parent}),
        spanferry.start_span("late") as span,
    ):
        span.set_outputs(BIG)


def decided(worker: SpanferryWorker, **labels: str) -> float:
    return sum(
        value
        for name, value in worker.metrics().items()
        if name.startswith("spanferry_sample_decisions_total")
        and all(f'{label}="{text}"' in name for label, text in labels.items())
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, "this did not come about"
        time.sleep(0.2)
