"""An app that judges its own answers with MLflow's objects.

`python -m tests.end_to_end.judges BOOTSTRAP TOPIC EXPERIMENT` sends one trace and all that is said of it.
"""

import sys

from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback

import spanferry


def main(bootstrap: str, topic: str, experiment: str) -> None:
    """One trace with all kinds of judgement, one of them corrected by a person."""
    spanferry.enable(bootstrap_servers=bootstrap, topic=topic, experiment=experiment)
    judge = AssessmentSource("LLM_JUDGE", "judge-1")
    with spanferry.start_span("root") as root:
        spanferry.update_current_trace(client_request_id="req-1")
        with spanferry.start_span("retrieve") as span:
            pass
    verdict = spanferry.log_feedback(
        trace_id=root.trace_id,
        name="relevance",
        value=0.3,
        source=judge,
        span_id=span.span_id,
        metadata={"cost": 0.01},
    )
    assert verdict is not None
    spanferry.override_feedback(
        trace_id=root.trace_id,
        assessment_id=verdict.assessment_id,
        value=0.9,
        rationale="it is relevant",
        source=AssessmentSource("HUMAN", "ann"),
    )
    spanferry.log_assessment(
        root.trace_id,
        Feedback("tone", error=AssessmentError("LIMIT", "too many requests"), source=judge),
    )
    spanferry.log_assessment(
        assessment=Expectation("answer", {"text": "42"}), client_request_id="req-1"
    )
    assert spanferry.flush(100)


if __name__ == "__main__":
    main(*sys.argv[1:])
