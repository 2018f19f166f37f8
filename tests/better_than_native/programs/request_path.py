"""What a request may do with MLflow's API, while the tracking server hangs."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback, Link, SpanEvent
from mlflow.entities.trace_location import MlflowExperimentLocation
from mlflow.tracing.attachments import Attachment
from mlflow.tracing.trace_manager import InMemoryTraceManager

from tests.better_than_native.programs.shipping import answer, begin, bounded, leave
from tests.mlflow_api.programs.merged import remote_trace

CASE_S = 20
HUMAN = AssessmentSource(source_type="HUMAN", source_id="user-1")


def number(count: int) -> None:
    mlflow.update_current_trace(tags={"number": str(count)})


def decorated(count: int) -> None:
    @mlflow.trace(span_type="TOOL")
    def step(question: str) -> str:
        return question.upper()

    @mlflow.trace(name="decorated", attributes={"k": "v"})
    def app(question: str) -> str:
        number(count)
        return step(question)

    assert app("why?") == "WHY?"


def awaited(count: int) -> None:
    @mlflow.trace
    async def app(question: str) -> str:
        number(count)
        await asyncio.sleep(0)
        return question

    asyncio.run(app("why?"))


def generated(count: int) -> None:
    @mlflow.trace(output_reducer=list)
    def app() -> Iterator[int]:
        number(count)
        yield from range(3)

    assert list(app()) == [0, 1, 2]


def failing(count: int) -> None:
    @mlflow.trace
    def app() -> None:
        number(count)
        raise KeyError("k")

    try:
        app()
    except KeyError:
        return
    raise AssertionError("the app's own error is gone")


def everything_about_a_span(count: int) -> None:
    with mlflow.start_span("root", span_type="AGENT", attributes={"a": 1}) as root:
        number(count)
        root.set_inputs({"question": "why?"})
        root.add_event(SpanEvent("moment"))
        root.add_link(Link(trace_id=root.trace_id, span_id=root.span_id))
        root.record_exception(ValueError("v"))
        root.set_status("OK")
        assert mlflow.get_current_active_span() is not None
        assert mlflow.get_active_trace_id() == root.trace_id
        root.set_outputs({"answer": 42})
    assert mlflow.get_last_active_trace_id() == root.trace_id


def everything_about_a_trace(count: int) -> None:
    with mlflow.start_span("root"):
        mlflow.update_current_trace(
            tags={"number": str(count)},
            metadata={"k": "v"},
            client_request_id="r",
            request_preview="why",
            response_preview="so",
            state="ERROR",
            session_id="s",
            user="u",
        )


def model(count: int) -> None:
    with mlflow.start_span("root"):
        number(count)
        mlflow.update_current_trace(model_id="m-0123456789abcdef")


def without_context(count: int) -> None:
    root = mlflow.start_span_no_context("root", inputs=1, tags={"number": str(count)})
    child = mlflow.start_span_no_context("child", parent_span=root)
    child.end(outputs=2)
    root.end(outputs=3)


def client(count: int) -> None:
    own = MlflowClient()
    trace_id = own.start_trace("root", inputs=1, tags={"number": str(count)}).trace_id
    child = own.start_span("child", trace_id=trace_id, parent_id=root_of(trace_id))
    own.end_span(trace_id, child.span_id, outputs=2, status="ERROR")
    own.set_trace_tag(trace_id, "own", "yes")
    own.end_trace(trace_id, outputs=3)


def root_of(trace_id: str) -> str:
    found = InMemoryTraceManager.get_instance().get_root_span_id(trace_id)
    assert found is not None
    return found


def attachments(count: int) -> None:
    with mlflow.start_span("root") as root:
        number(count)
        root.set_inputs({"image": Attachment(content_type="image/png", content_bytes=b"png")})


def headers(count: int) -> None:
    tracing = mlflow.tracing
    with mlflow.start_span("root"):
        number(count)
        given = tracing.get_tracing_context_headers_for_http_request()
    assert "traceparent" in given
    with tracing.set_tracing_context_from_http_request_headers(given), mlflow.start_span("callee"):
        pass


def added(count: int) -> None:
    with mlflow.start_span("root"):
        number(count)
        mlflow.add_trace(remote_trace())


def context(count: int) -> None:
    with mlflow.tracing.context(tags={"number": str(count)}, metadata={"k": "v"}):
        with mlflow.start_span("root"):
            pass
        with mlflow.tracing.context(enabled=False), mlflow.start_span("not there"):
            pass


def destination(count: int) -> None:
    place = MlflowExperimentLocation(OPTIONS["experiment_id"])
    with mlflow.start_span("root", trace_destination=place):
        number(count)


def judged_and_tagged(count: int) -> None:
    with mlflow.start_span("root") as root:
        number(count)
        mlflow.set_trace_tag(root.trace_id, "inside", "yes")
        mlflow.log_feedback(trace_id=root.trace_id, name="inside", value=True, source=HUMAN)
    mlflow.set_trace_tag(root.trace_id, "behind", "yes")
    mlflow.delete_trace_tag(root.trace_id, "inside")
    first = mlflow.log_feedback(trace_id=root.trace_id, name="f", value=0.5, source=HUMAN)
    assert first.assessment_id is not None
    mlflow.override_feedback(
        trace_id=root.trace_id, assessment_id=first.assessment_id, value=1.0, source=HUMAN
    )
    mlflow.log_expectation(trace_id=root.trace_id, name="e", value=42, source=HUMAN)
    mlflow.log_assessment(root.trace_id, Feedback(name="g", value="x", source=HUMAN))
    assert mlflow.get_assessment(root.trace_id, first.assessment_id).feedback.value == 0.5


def off_and_on(count: int) -> None:
    mlflow.tracing.disable()
    with mlflow.start_span("not there"):
        pass
    mlflow.tracing.enable()
    with mlflow.start_span("root"):
        number(count)


CASES: list[Callable[[int], None]] = [
    *(decorated, awaited, generated, failing, everything_about_a_span, everything_about_a_trace),
    *(model, without_context, client, attachments, headers, added, context, destination),
    *(judged_and_tagged, off_and_on),
]
OPTIONS: dict[str, Any] = {}


def outcome(case: Callable[[int], None], count: int) -> str:
    """Of the case in a thread of its own, which may hang for ever."""
    said = ["hangs"]

    def run() -> None:
        try:
            case(count)
            said[0] = "fine"
        except Exception as error:
            said[0] = f"{type(error).__name__}: {error}"

    bounded(run, CASE_S)
    return said[0]


def main() -> None:
    OPTIONS.update(json.loads(sys.argv[1]))
    begin()
    OPTIONS["experiment_id"] = mlflow.set_experiment(OPTIONS["experiment"]).experiment_id
    mlflow.set_tracking_uri(OPTIONS["hanging"])
    outcomes: dict[str, str] = {}
    for count, case in enumerate(CASES):
        outcomes[case.__name__] = outcome(case, count)
        if outcomes[case.__name__] == "hangs":
            break
    if OPTIONS.get("topic"):
        import spanferry

        assert spanferry.flush(100)
    answer(outcomes=outcomes)
    leave()


if __name__ == "__main__":
    main()
