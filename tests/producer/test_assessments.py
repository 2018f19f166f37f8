"""Assessments as MLflow's own objects, and those that replace others."""

from types import SimpleNamespace
from typing import Any

import mlflow.entities
import pytest
from mlflow.entities import AssessmentSource, Expectation, Feedback
from mlflow.entities.assessment import IssueReference

import spanferry
from spanferry.testing import capture
from spanferry_schemas import Assessment, AssessmentKind, decode, encode
from tests.producer.hostile import Hostile

TRACE = "tr-0af7651916cd43dd8448eb211c80319c"
OTHER = "tr-1af7651916cd43dd8448eb211c80319c"


def sent(captured: capture) -> Assessment:
    """The one assessment, as the worker reads it."""
    (parcel,) = captured.parcels
    assert parcel.assessment is not None
    event = decode(encode(parcel.assessment))
    assert isinstance(event, Assessment), event
    return event


def judgement(**more: Any) -> Feedback:
    return Feedback(
        name="relevance",
        value={"score": 0.5},
        source=AssessmentSource("LLM_JUDGE", "judge-1"),
        rationale="because",
        metadata={"model": "m"},
        span_id="b7ad6b7169203331",
        create_time_ms=1_700_000_000_123,
        **more,
    )


def test_mlflows_feedback_is_sent_whole(captured: capture) -> None:
    given = judgement(overrides="a-old")
    given.run_id = "run-1"
    returned = spanferry.log_assessment(TRACE, given)
    event = sent(captured)
    assert event == returned
    assert event.kind is AssessmentKind.FEEDBACK
    assert (event.name, event.value, event.rationale) == ("relevance", b'{"score":0.5}', "because")
    assert (event.source_type, event.source_id) == ("LLM_JUDGE", "judge-1")
    assert event.metadata == {"model": "m", "mlflow.assessment.sourceRunId": "run-1"}
    assert event.span_id == bytes.fromhex("b7ad6b7169203331")
    assert event.created_ns == 1_700_000_000_123_000_000
    assert event.overrides == "a-old"
    assert event.trace_id == bytes.fromhex(TRACE[3:])
    assert (given.trace_id, given.assessment_id) == (None, None)


def test_mlflows_expectation_is_sent_whole(captured: capture) -> None:
    spanferry.log_assessment(trace_id=TRACE, assessment=Expectation(name="answer", value=["a"]))
    event = sent(captured)
    assert event.kind is AssessmentKind.EXPECTATION
    assert (event.name, event.value, event.source_type) == ("answer", b'["a"]', "HUMAN")


def test_a_judge_that_failed(captured: capture) -> None:
    spanferry.log_assessment(TRACE, Feedback(error=ValueError("no answer")))
    event = sent(captured)
    assert (event.name, event.value, event.source_type) == ("feedback", b"null", "CODE")
    assert event.error is not None
    assert event.error[:2] == ("ValueError", "no answer")


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        ({"trace_id": TRACE}, (TRACE, None)),
        ({"client_request_id": "r-1"}, (None, "r-1")),
        ({"trace_id": TRACE, "client_request_id": "r-1"}, (TRACE, "r-1")),
        ({}, (OTHER, None)),
    ],
    ids=["by trace", "by request", "by both", "as it says itself"],
)
def test_which_trace_is_meant(arguments: Any, stored: Any, captured: capture) -> None:
    spanferry.log_assessment(assessment=judgement(trace_id=OTHER), **arguments)
    (assessment,) = captured.assessments
    assert (assessment.trace_id, assessment.client_request_id) == stored


def test_one_assessment_may_go_to_many_traces(captured: capture) -> None:
    given = judgement()
    ids = {spanferry.log_assessment(trace, given).assessment_id for trace in (TRACE, OTHER)}  # type: ignore[union-attr]
    assert len(ids) == 2


def test_mlflows_parts_are_taken_by_log_feedback(captured: capture) -> None:
    spanferry.log_feedback(
        trace_id=TRACE,
        source=AssessmentSource(mlflow.entities.AssessmentSourceType.LLM_JUDGE, "judge-1"),
        error=mlflow.entities.AssessmentError("LIMIT", "too much", "stack"),
    )
    event = sent(captured)
    assert (event.source_type, event.source_id) == ("LLM_JUDGE", "judge-1")
    assert event.error == ("LIMIT", "too much", "stack")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (None, "needs an assessment"),
        (3, "could not be used"),
        (Hostile(), "could not be used"),
        (SimpleNamespace(name="n", value=1), "could not be used"),
        (IssueReference(issue_id="iss-1", issue_name="slow"), "use mlflow.log_issue"),
    ],
    ids=["nothing", "number", "hostile", "half", "issue"],
)
def test_what_is_no_assessment_is_said_once_and_left_out(
    given: Any, word: str, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert spanferry.log_assessment(TRACE, given) is None
    assert not captured.parcels
    assert len(caplog.records) == 1
    assert word in caplog.text


def test_overriding_names_what_it_replaces(captured: capture) -> None:
    old = spanferry.log_feedback(trace_id=TRACE, name="relevance", value=0.6)
    assert old is not None
    captured.clear()
    new = spanferry.override_feedback(
        trace_id=TRACE,
        assessment_id=old.assessment_id,
        value=0.9,
        rationale="it does answer",
        source=AssessmentSource("HUMAN", "ann"),
        metadata={"confidence": "high"},
    )
    event = sent(captured)
    assert event == new
    assert event.overrides == old.assessment_id != event.assessment_id
    assert (event.name, event.span_id) == ("", None)  # the worker takes these over
    assert (event.value, event.rationale) == (b"0.9", "it does answer")
    assert (event.source_type, event.source_id) == ("HUMAN", "ann")
    assert event.metadata == {"confidence": "high"}


@pytest.mark.parametrize("assessment_id", ["", None])
def test_overriding_nothing_is_left_out(
    assessment_id: Any, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert spanferry.override_feedback(trace_id=TRACE, assessment_id=assessment_id, value=1) is None
    assert not captured.parcels
    assert "needs an assessment_id" in caplog.text


def test_no_assessment_id_raises(captured: capture) -> None:
    hostile: Any = Hostile()
    assert spanferry.override_feedback(trace_id=TRACE, assessment_id=hostile, value=hostile)
    assert "cannot record Hostile" in (sent(captured).overrides or "")
