"""A feedback endpoint in a process of its own: what it says of traces that others have made."""

import time

import mlflow
from mlflow.entities import AssessmentSource

from tests.better_than_native.programs.shipping import answer, begin, leave

HUMAN = AssessmentSource(source_type="HUMAN", source_id="user-1")


def main() -> None:
    options = begin()
    trace_id = options["trace_id"]
    begun = time.monotonic()
    first = mlflow.log_feedback(trace_id=trace_id, name="helpful", value=False, source=HUMAN)
    assert first.assessment_id is not None
    second = mlflow.override_feedback(
        trace_id=trace_id, assessment_id=first.assessment_id, value=True, source=HUMAN
    )
    assert second.assessment_id is not None
    read = mlflow.get_assessment(trace_id, second.assessment_id)
    mlflow.set_trace_tag(trace_id, "reviewed", "yes")
    answer(
        value=read.feedback.value,
        overrides=read.overrides == first.assessment_id,
        first_is_valid=mlflow.get_assessment(trace_id, first.assessment_id).valid,
        took_s=time.monotonic() - begun,
    )
    mlflow.flush_trace_async_logging()
    leave()


if __name__ == "__main__":
    main()
