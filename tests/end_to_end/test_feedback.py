"""Feedback that comes before its trace, from an app through Kafka into MLflow; what nobody is behind dies."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from tests.end_to_end.conftest import Pipeline
from tests.end_to_end.judged_early import NOBODYS_TRACE
from tests.end_to_end.test_dead_letters import Operator

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

QUICK = ("--set=write.absent_retry_s=0.3", "--set=assemble.feedback_grace_s=0.2")
PATIENT = (*QUICK, "--set=write.absent_s=600")
IMPATIENT = (*QUICK, "--set=write.absent_s=1")


@pytest.fixture
def operator(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(pipeline, capsys)


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def judged(pipeline: Pipeline) -> dict[str, list[str]]:
    """What MLflow says of every trace, by the name of its root."""
    client = MlflowClient(pipeline.tracking_uri)
    found = client.get_experiment_by_name(pipeline.experiment)
    if found is None:
        return {}
    traces = client.search_traces(locations=[found.experiment_id], include_spans=False)
    return {
        one.info.tags["mlflow.traceName"]: [each.feedback.value for each in one.info.assessments]
        for one in traces
    }


def test_feedback_waits_for_its_trace_and_what_has_none_is_a_dead_letter(
    pipeline: Pipeline, operator: Operator
):
    worker = pipeline.worker(*PATIENT)
    arguments = [pipeline.kafka.bootstrap_servers, pipeline.topic, pipeline.experiment]
    app = subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.judged_early", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert app.stdout is not None
        assert app.stdin is not None
        sent = int(app.stdout.readline())
        assert sent == 4, "the traces are not among them"

        def waits() -> bool:
            """All was read, and lies with the writer: MLflow was asked in vain."""
            now = {name.removeprefix("spanferry_"): n for name, n in worker.metrics().items()}
            read = now["consume_records_total"] >= sent and not now["assemble_held_bytes"]
            return read and now["consume_held_bytes"] > 0

        wait(waits, "feedback does not wait")
        assert judged(pipeline) == {}
        app.stdin.write("go on\n")
        app.stdin.close()
        assert app.wait(60) == 0
    finally:
        app.kill()
        app.wait()
        app.stdout.close()
    wanted = {"by trace": ["by trace"], "by request": ["by request"]}
    wait(lambda: judged(pipeline) == wanted, "feedback does not come to its trace")
    assert worker.metrics()["spanferry_consume_held_bytes"] > 0, "what nobody is behind still waits"
    worker.kill()
    worker = pipeline.worker(*IMPATIENT)
    letters = operator.wait_for(2)
    assert [one["reason"] for one in letters] == ["no_trace"] * 2
    assert {one["trace_id"] for one in letters} == {None, NOBODYS_TRACE}
    code, shown = operator.dlq("list", "--reason=no_trace")
    assert code == 0
    assert "2 of 2 dead letters: no_trace 2; 2 never replayed" in shown
    assert judged(pipeline) == wanted, "each once"
    wait(lambda: not worker.metrics()["spanferry_consume_held_bytes"], "something still waits")
