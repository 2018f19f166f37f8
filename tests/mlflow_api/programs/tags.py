"""set_trace_tag and delete_trace_tag, while a trace is open and after its end."""

import mlflow
from mlflow import MlflowClient

from tests.mlflow_api.registry import program


@program()
def tags_while_open(stage):
    with mlflow.start_span("root") as span:
        mlflow.set_trace_tag(span.trace_id, "kept", "1")
        mlflow.set_trace_tag(span.trace_id, "changed", "1")
        mlflow.set_trace_tag(span.trace_id, "changed", "2")
        mlflow.set_trace_tag(span.trace_id, "deleted", "1")
        mlflow.update_current_trace(tags={"updated": "1"})
        mlflow.delete_trace_tag(span.trace_id, "deleted")
        mlflow.delete_trace_tag(span.trace_id, "updated")


@program()
def tags_after_the_end(stage):
    with mlflow.start_span("root") as span:
        mlflow.update_current_trace(tags={"first": "1", "second": "1", "third": "1"})
    stage.settle()
    mlflow.set_trace_tag(span.trace_id, "late", "größe")
    mlflow.set_trace_tag(span.trace_id, "first", "2")
    mlflow.delete_trace_tag(span.trace_id, "second")
    client = MlflowClient()
    client.set_trace_tag(span.trace_id, "by the client", "yes")
    client.delete_trace_tag(span.trace_id, "third")


@program()
def long_and_odd_tags(stage):
    with mlflow.start_span("root") as span:
        mlflow.set_trace_tag(span.trace_id, "long", "x" * 1_000)
        mlflow.set_trace_tag(span.trace_id, "number", 5)
    stage.settle()
    mlflow.set_trace_tag(span.trace_id, "late", "ü" * 200)


@program()
def wrong_tags(stage):
    errors = []
    with mlflow.start_span("root") as span:
        attempts = [
            lambda: mlflow.delete_trace_tag(span.trace_id, "never there"),
            lambda: mlflow.set_trace_tag(span.trace_id, "mlflow.user", "reserved"),
            lambda: mlflow.set_trace_tag(span.trace_id, "mlflow.artifactLocation", "reserved"),
            lambda: mlflow.set_trace_tag("tr-" + "00" * 16, "no", "trace"),
        ]
        for attempt in attempts:
            try:
                attempt()
                errors.append("none")
            except Exception as error:
                errors.append(type(error).__name__)
    return errors
