"""Feedback and expectations, while a trace is open and right after its end."""

import mlflow
from mlflow.entities import (
    AssessmentError,
    AssessmentSource,
    AssessmentSourceType,
    Expectation,
    Feedback,
)

from tests.mlflow_api.registry import program

HUMAN = AssessmentSource(AssessmentSourceType.HUMAN, "someone@example.com")
JUDGE = AssessmentSource(source_type="LLM_JUDGE", source_id="gpt-4o")


def finished(stage, name="root"):
    """A trace that has ended: its ids."""
    with mlflow.start_span(name) as span:
        span.set_inputs({"q": 1})
    stage.settle()
    return span.trace_id, span.span_id


@program()
def judged_while_open(stage):
    with mlflow.start_span("root") as span:
        mlflow.log_feedback(
            trace_id=span.trace_id,
            name="good",
            value=True,
            rationale="ja, schön",
            source=HUMAN,
            metadata={"k": "v"},
        )
        mlflow.log_feedback(trace_id=span.trace_id, name="score", value=0.5, span_id=span.span_id)
        mlflow.log_feedback(trace_id=span.trace_id, name="failed", error=ValueError("no judge"))
        mlflow.log_expectation(
            trace_id=span.trace_id, name="wanted", value={"answer": ["x", 1, None]}
        )


@program()
def judged_after_the_end(stage):
    trace_id, span_id = finished(stage)
    logged = mlflow.log_feedback(
        trace_id=trace_id,
        name="helpful",
        value=False,
        rationale="slow",
        source=HUMAN,
        metadata={"reviewer": "1"},
        span_id=span_id,
    )
    mlflow.log_expectation(trace_id=trace_id, name="answer", value="42", source=HUMAN)
    return {
        "name": logged.name,
        "value": logged.value,
        "source": logged.source.source_type,
        "id": logged.assessment_id is not None,
        "trace": logged.trace_id == trace_id,
        "kind": type(logged).__name__,
    }


@program()
def feedback_of_every_value(stage):
    trace_id, _ = finished(stage)
    values = {
        "yes": True,
        "whole": 3,
        "fraction": 0.25,
        "text": "größe 🎉",
        "empty": "",
        "list": [1, "a", True],
        "dict": {"accuracy": 0.9, "notes": "x"},
        "long": "x" * 3_000,
    }
    for name, value in values.items():
        mlflow.log_feedback(trace_id=trace_id, name=name, value=value)
    mlflow.log_feedback(trace_id=trace_id, value=1)


@program()
def expectations_of_every_value(stage):
    with mlflow.start_span("root") as span:
        for name, value in {
            "text": "ü",
            "number": 1.5,
            "yes": True,
            "list": [1, [2, None]],
            "dict": {"a": {"b": [1]}},
        }.items():
            mlflow.log_expectation(
                trace_id=span.trace_id, name=name, value=value, metadata={"of": name}
            )


@program()
def feedback_with_errors(stage):
    with mlflow.start_span("root") as span:
        mlflow.log_feedback(
            trace_id=span.trace_id,
            name="given",
            error=AssessmentError(error_code="RATE_LIMIT", error_message="too many"),
            source=JUDGE,
        )
        mlflow.log_feedback(
            trace_id=span.trace_id, name="value and error", value=1, error=TimeoutError("slow")
        )
    trace_id, _ = finished(stage, "after")
    mlflow.log_feedback(
        trace_id=trace_id,
        name="late",
        error=AssessmentError("CODE", "message", "Traceback: none"),
    )


@program()
def assessments_made_by_hand(stage):
    with mlflow.start_span("root") as span:
        mlflow.log_assessment(span.trace_id, Feedback(name="made", value="yes", source=JUDGE))
    trace_id, span_id = finished(stage, "after")
    mlflow.log_assessment(
        trace_id=trace_id, assessment=Expectation(name="wanted", value=[1], source=HUMAN)
    )
    mlflow.log_assessment(
        trace_id, Feedback(name="late", value=2, rationale="r", span_id=span_id, source=JUDGE)
    )


@program()
def same_name_twice(stage):
    with mlflow.start_span("root") as span:
        mlflow.log_feedback(trace_id=span.trace_id, name="again", value=1, source=JUDGE)
        mlflow.log_feedback(trace_id=span.trace_id, name="again", value=2, source=HUMAN)
    trace_id, _ = finished(stage, "after")
    for value in (1, 2):
        mlflow.log_feedback(trace_id=trace_id, name="again", value=value)


@program()
def feedback_overridden(stage):
    trace_id, _ = finished(stage)
    first = mlflow.log_feedback(trace_id=trace_id, name="relevance", value=0.6, source=JUDGE)
    try:
        second = mlflow.override_feedback(
            trace_id=trace_id,
            assessment_id=first.assessment_id,
            value=0.9,
            rationale="read it myself",
            source=HUMAN,
            metadata={"reason": "underestimated"},
        )
    except Exception as error:
        return type(error).__name__
    return second.overrides == first.assessment_id


@program()
def feedback_overridden_while_open(stage):
    with mlflow.start_span("root") as span:
        first = mlflow.log_feedback(trace_id=span.trace_id, name="r", value=0.6, source=JUDGE)
        try:
            mlflow.override_feedback(
                trace_id=span.trace_id, assessment_id=first.assessment_id, value=0.9
            )
        except Exception as error:
            return type(error).__name__


@program()
def feedback_updated_and_deleted(stage):
    trace_id, _ = finished(stage)
    first = mlflow.log_feedback(trace_id=trace_id, name="first", value=1, source=HUMAN)
    second = mlflow.log_feedback(trace_id=trace_id, name="second", value=2, source=HUMAN)
    errors = []
    try:
        mlflow.update_assessment(
            trace_id, first.assessment_id, Feedback(name="first", value=3, rationale="changed")
        )
    except Exception as error:
        errors.append(type(error).__name__)
    try:
        mlflow.delete_assessment(trace_id, second.assessment_id)
    except Exception as error:
        errors.append(type(error).__name__)
    return errors


@program()
def feedback_in_a_child(stage):
    @mlflow.trace
    def judges():
        span = mlflow.get_current_active_span()
        mlflow.log_feedback(trace_id=span.trace_id, name="inner", value=1, span_id=span.span_id)

    with mlflow.start_span("root"):
        judges()


@program()
def feedback_inside_a_run(stage):
    with mlflow.start_run(run_name="judging"):
        trace_id, _ = finished(stage)
        mlflow.log_feedback(trace_id=trace_id, name="in a run", value=True)
        with mlflow.start_span("second") as span:
            mlflow.log_feedback(trace_id=span.trace_id, name="open, in a run", value=True)


@program()
def feedback_with_odd_metadata(stage):
    with mlflow.start_span("root") as span:
        mlflow.log_feedback(
            trace_id=span.trace_id, name="numbers", value=1, metadata={"n": 1, "l": [1, None]}
        )


@program()
def feedback_with_keys_that_are_no_text(stage):
    with mlflow.start_span("root") as span:
        mlflow.log_feedback(trace_id=span.trace_id, name="keys", value=1, metadata={1: "one"})


@program()
def wrong_feedback(stage):
    errors = []
    with mlflow.start_span("root") as span:
        for arguments in (
            {"name": "neither"},
            {"name": "source", "value": 1, "source": "HUMAN"},
        ):
            try:
                mlflow.log_feedback(trace_id=span.trace_id, **arguments)
                errors.append("none")
            except Exception as error:
                errors.append(type(error).__name__)
    return errors
