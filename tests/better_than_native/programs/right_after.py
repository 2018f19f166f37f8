"""Feedback, an expectation and tags for a trace, right after the request that made it."""

from collections.abc import Callable

import mlflow
from mlflow.entities import AssessmentSource
from mlflow.exceptions import MlflowException

from tests.better_than_native.programs.shipping import answer, begin, leave, trace

SOURCE = AssessmentSource(source_type="HUMAN", source_id="user-1")


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except MlflowException as error:
        return error.error_code
    return "ok"


def main() -> None:
    options = begin()
    trace_id = trace(0)
    outcomes = {
        "feedback": outcome(
            lambda: mlflow.log_feedback(
                trace_id=trace_id, name="helpful", value=True, source=SOURCE, rationale="yes"
            )
        ),
        "expectation": outcome(
            lambda: mlflow.log_expectation(
                trace_id=trace_id, name="expected", value={"answer": 42}, source=SOURCE
            )
        ),
        "tag": outcome(lambda: mlflow.set_trace_tag(trace_id, "reviewed", "yes")),
        "passing tag": outcome(lambda: mlflow.set_trace_tag(trace_id, "passing", "yes")),
        "deleted tag": outcome(lambda: mlflow.delete_trace_tag(trace_id, "passing")),
    }
    if options.get("stored"):
        mlflow.flush_trace_async_logging()
    answer(trace_id=trace_id, outcomes=outcomes)
    if options.get("topic"):
        import spanferry

        assert spanferry.flush(100)
    leave()


if __name__ == "__main__":
    main()
