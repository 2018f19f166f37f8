"""Feedback and tags by trace id: behind their traces, without asking any server."""

import mlflow
import pytest
from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback
from mlflow.exceptions import MlflowException

from spanferry.testing import capture

HUMAN = AssessmentSource(AssessmentSourceType.HUMAN, "ann")


def test_feedback_inside_and_right_behind_the_trace(captured: capture) -> None:
    with mlflow.start_span("x") as span:
        mlflow.log_feedback(trace_id=span.trace_id, name="now", value=0.5, span_id=span.span_id)
    later = mlflow.log_feedback(
        trace_id=span.trace_id,
        name="later",
        value={"a": [1]},
        source=HUMAN,
        rationale="because",
        metadata={"k": "v"},
    )
    mlflow.log_expectation(trace_id=span.trace_id, name="wanted", value="42", source=HUMAN)
    now, second, third = captured.assessments
    assert (now.name, now.value, now.event.span_id.hex()) == ("now", 0.5, span.span_id)
    assert (second.value, second.event.source_type, second.event.source_id) == (
        {"a": [1]},
        "HUMAN",
        "ann",
    )
    assert (second.event.rationale, second.event.metadata) == ("because", {"k": "v"})
    assert second.event.assessment_id == later.assessment_id
    assert third.event.kind.name == "EXPECTATION"
    assert {one.trace_id for one in captured.assessments} == {span.trace_id}


def test_an_error_instead_of_a_value(captured: capture) -> None:
    mlflow.log_feedback(trace_id="tr-" + "1" * 32, error=ValueError("judge failed"), source=HUMAN)
    [one] = captured.assessments
    assert one.event.error[:2] == ("ValueError", "judge failed")
    assert one.value is None


def test_assessments_that_mlflows_code_puts_into_an_open_trace(captured: capture) -> None:
    manager = mlflow.tracing.trace_manager.InMemoryTraceManager.get_instance()
    with mlflow.start_span("x") as span, manager.get_trace(span.trace_id) as trace:
        trace.info.assessments.append(Feedback(name="own", value=1, source=HUMAN))
    [one] = captured.assessments
    assert (one.name, one.value, one.trace_id) == ("own", 1, span.trace_id)


def test_tags_while_it_is_open_and_behind_it(captured: capture) -> None:
    with mlflow.start_span("x") as span:
        mlflow.set_trace_tag(span.trace_id, "a", "1")
        mlflow.set_trace_tag(span.trace_id, "b", "2")
        mlflow.delete_trace_tag(span.trace_id, "b")
        with pytest.raises(MlflowException, match="not found"):
            mlflow.delete_trace_tag(span.trace_id, "never")
    mlflow.set_trace_tag(span.trace_id, "c", "3")
    mlflow.delete_trace_tag(span.trace_id, "a")
    [trace] = captured.traces
    assert trace.tags == {"mlflow.traceName": "x", "c": "3"}


def test_what_is_not_recorded_is_not_judged(captured: capture) -> None:
    given = mlflow.log_feedback(trace_id="MLFLOW_NO_OP_SPAN_TRACE_ID", value=True)
    assert given.value is True
    assert captured.parcels == []
