"""Versions of an app by name: the worker makes the LoggedModels, MLflow finds all that belongs to them."""

import os
import subprocess
import sys
import time

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus, Trace
from mlflow.genai import evaluate, scorer

from tests.end_to_end.conftest import Pipeline
from tests.end_to_end.versions import PARAMS

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

TRACES = 7


@pytest.fixture
def stored(pipeline: Pipeline) -> dict[str, Trace]:
    """Every trace of the app, by its question, once all are there."""
    pipeline.worker()
    arguments = [pipeline.kafka.bootstrap_servers, pipeline.topic, pipeline.experiment]
    subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.versions", *arguments],
        env={**os.environ, "MLFLOW_ACTIVE_MODEL_ID": "m-environment"},
        check=True,
        timeout=120,
    )
    mlflow.set_tracking_uri(pipeline.tracking_uri)
    deadline = time.monotonic() + 150
    while True:
        found = search(pipeline)
        if len(found) == TRACES:
            return found
        assert time.monotonic() < deadline, sorted(found)
        time.sleep(0.5)


def search(pipeline: Pipeline, **options: str) -> dict[str, Trace]:
    if mlflow.get_experiment_by_name(pipeline.experiment) is None:
        return {}
    mlflow.set_experiment(pipeline.experiment)
    found = mlflow.search_traces(return_type="list", **options)
    return {trace.info.tags["asked"]: trace for trace in found}


def model_of(trace: Trace) -> str | None:
    return trace.info.trace_metadata.get("mlflow.modelId")


def test_a_version_is_found_with_its_params_and_its_traces(
    stored: dict[str, Trace], pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_of(stored["environment"]) == "m-environment"
    assert model_of(stored["by id"]) == "m-by-id"
    assert model_of(stored["refused"]) is None

    first = model_of(stored["first"])
    assert first is not None
    model = mlflow.get_logged_model(first)
    assert (model.name, model.status) == ("agent-1", LoggedModelStatus.READY)
    # What a version was made with stays; what it lacked is added.
    assert model.params == {**{key: str(value) for key, value in PARAMS.items()}, "top_k": "5"}
    of_first = {"first", "first again", "first, other params"}
    assert {question for question, trace in stored.items() if model_of(trace) == first} == of_first
    assert set(search(pipeline, model_id=first)) == of_first

    second = model_of(stored["second"])
    assert second is not None
    assert mlflow.get_logged_model(second).name == "agent-2"
    assert mlflow.get_logged_model(second).params == {}
    assert len(mlflow.search_logged_models(output_format="list")) == 2

    monkeypatch.setenv("MLFLOW_GENAI_EVAL_ENABLE_SCORER_TRACING", "false")
    assert_evaluated(pipeline, first)


def assert_evaluated(pipeline: Pipeline, model_id: str) -> None:
    """MLflow's evaluation takes the version, and its verdicts are with the version's traces."""

    @scorer
    def answers(inputs: dict[str, str], outputs: str) -> bool:
        return outputs == f"answer to {inputs['question']}"

    data = mlflow.search_traces(model_id=model_id)
    result = evaluate(data=data, scorers=[answers], model_id=model_id)
    assert result.metrics == {"answers/mean": 1.0}
    judged = search(pipeline, model_id=model_id).values()
    assert [[one.name for one in trace.info.assessments] for trace in judged] == [["answers"]] * 3
    metrics = mlflow.get_logged_model(model_id).metrics or []
    assert {(metric.key, metric.value) for metric in metrics} == {("answers/mean", 1.0)}
