"""MlflowClient.start_trace, start_span, end_span, end_trace."""

import mlflow
from mlflow import MlflowClient
from mlflow.entities import SpanStatus

from tests.mlflow_api.registry import program

START = 1_700_000_000_000_000_000


@program()
def client_trace(stage):
    client = MlflowClient()
    root = client.start_trace(
        "root",
        span_type="AGENT",
        inputs={"q": "why?"},
        attributes={"a": 1},
        tags={"team": "search"},
    )
    span = client.start_span(
        "child", root.trace_id, root.span_id, span_type="TOOL", inputs=[1], attributes={"b": 2}
    )
    inner = client.start_span("inner", root.trace_id, span.span_id)
    client.end_span(root.trace_id, inner.span_id, outputs={"x": 1}, status="ERROR")
    client.end_span(root.trace_id, span.span_id, attributes={"c": 3})
    client.end_trace(root.trace_id, outputs="because", attributes={"d": 4})
    return mlflow.get_last_active_trace_id() == root.trace_id


@program()
def client_times_and_experiment(stage):
    client = MlflowClient()
    other = stage.experiment("other")
    root = client.start_trace("root", experiment_id=other, start_time_ns=START)
    span = client.start_span("child", root.trace_id, root.span_id, start_time_ns=START + 1_000_000)
    client.end_span(root.trace_id, span.span_id, end_time_ns=START + 2_000_000)
    client.end_trace(
        root.trace_id, status=SpanStatus("ERROR", "in words"), end_time_ns=START + 3_500_000
    )


@program()
def client_leaves_a_span_open(stage):
    client = MlflowClient()
    root = client.start_trace("root")
    client.start_span("open", root.trace_id, root.span_id)
    client.end_trace(root.trace_id)


@program(since="3.14")
def client_trace_of_a_run(stage):
    client = MlflowClient()
    with mlflow.start_run() as run:
        pass
    root = client.start_trace("root", run_id=run.info.run_id)
    client.end_trace(root.trace_id)


@program()
def client_does_wrong(stage):
    client = MlflowClient()
    errors = []
    root = client.start_trace("root")
    with_active = None
    attempts = [
        lambda: client.start_span("x", root.trace_id, "ffffffffffffffff"),
        lambda: client.start_span("x", "tr-" + "00" * 16, root.span_id),
        lambda: client.start_span("x", root.trace_id, None),
        lambda: client.end_span(root.trace_id, "ffffffffffffffff"),
        lambda: client.end_trace("tr-" + "00" * 16),
    ]
    for attempt in attempts:
        try:
            attempt()
            errors.append("none")
        except Exception as error:
            errors.append(type(error).__name__)
    client.end_trace(root.trace_id)
    try:
        client.end_trace(root.trace_id)
        errors.append("none")
    except Exception as error:
        errors.append(type(error).__name__)
    return errors, with_active


@program()
def client_inside_a_span(stage):
    client = MlflowClient()
    with mlflow.start_span("outer") as outer:
        span = client.start_span("child", outer.trace_id, outer.span_id)
        client.set_trace_tag(outer.trace_id, "during", "yes")
        client.end_span(outer.trace_id, span.span_id)
        try:
            own = client.start_trace("a trace of its own")
            client.end_trace(own.trace_id)
        except Exception as error:
            return type(error).__name__
    return own.trace_id == outer.trace_id
