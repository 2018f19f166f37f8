"""Sampling by size, from an app over Kafka into MLflow: what is stored, what it says, how it is found."""

import time
from collections.abc import Callable

import mlflow
import pytest
from mlflow.entities import Trace

import spanferry
from tests.end_to_end.conftest import Pipeline

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow, pytest.mark.timeout(180)]

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
    deadline = time.monotonic() + 60
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
        assert spanferry.flush(20)
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
