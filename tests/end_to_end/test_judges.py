"""Judgements of every kind, made in the app, as MLflow shows them."""

import subprocess
import sys
import time

import mlflow
import pytest
from mlflow.entities import Assessment, Feedback

from tests.end_to_end.conftest import Pipeline

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]


@pytest.fixture
def judged(pipeline: Pipeline) -> tuple[dict[str, str], list[Assessment]]:
    """Span ids by name, and the assessments of the one trace once all are there."""
    pipeline.worker()
    arguments = [pipeline.kafka.bootstrap_servers, pipeline.topic, pipeline.experiment]
    program = [sys.executable, "-m", "tests.end_to_end.judges", *arguments]
    subprocess.run(program, check=True, timeout=120)
    mlflow.set_tracking_uri(pipeline.tracking_uri)
    deadline = time.monotonic() + 150
    while True:
        experiment = mlflow.get_experiment_by_name(pipeline.experiment)
        ids = [experiment.experiment_id] if experiment else []
        for trace in mlflow.search_traces(locations=ids, return_type="list") if ids else []:
            if len(trace.info.assessments) == 4:
                return {s.name: s.span_id for s in trace.data.spans}, trace.info.assessments
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_every_kind_is_shown_as_it_was_meant(
    judged: tuple[dict[str, str], list[Assessment]],
) -> None:
    spans, assessments = judged
    (old, new) = sorted(
        (one for one in assessments if one.name == "relevance"), key=lambda one: bool(one.overrides)
    )
    assert isinstance(old, Feedback)
    assert isinstance(new, Feedback)
    assert (old.value, old.valid, old.source.source_id) == (0.3, False, "judge-1")
    assert (new.value, new.valid, new.source.source_id) == (0.9, True, "ann")
    assert new.overrides == old.assessment_id
    assert old.span_id == new.span_id == spans["retrieve"]
    assert old.metadata == {"cost": "0.01"}
    assert new.rationale == "it is relevant"

    by_name = {one.name: one for one in assessments}
    tone, answer = by_name["tone"], by_name["answer"]
    assert tone.error is not None
    assert (tone.error.error_code, tone.source.source_type) == ("LIMIT", "LLM_JUDGE")
    assert answer.expectation is not None
    assert answer.expectation.value == {"text": "42"}
    assert answer.source.source_type == "HUMAN"
