"""mlflow.add_trace: finished traces of another service put into ours."""

import base64
import contextlib
import json

import mlflow
from mlflow.entities import Trace

from tests.mlflow_api.registry import program

START = 1_700_000_000_000_000_000
REMOTE_ID = "tr-" + "5a" * 16


def encoded(number):
    """A span id as MLflow writes it."""
    return base64.b64encode(number.to_bytes(8, "big")).decode()


def span(number, parent, name, **attributes):
    """One span as MLflow writes it into a dict."""
    start = START + number * 1_000_000
    own = {"mlflow.traceRequestId": REMOTE_ID, "mlflow.spanType": "TOOL", **attributes}
    return {
        "trace_id": "WlpaWlpaWlpaWlpaWlpaWg==",
        "span_id": encoded(number),
        "parent_span_id": encoded(parent) if parent else None,
        "name": name,
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 500_000,
        "events": [{"name": "step", "time_unix_nano": start + 1, "attributes": {"n": 1}}],
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {key: json.dumps(value) for key, value in own.items()},
    }


def remote_trace(state="OK"):
    """What the other service answers."""
    return {
        "info": {
            "trace_id": REMOTE_ID,
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": "0"},
            },
            "request_time": "2023-11-14T22:13:20Z",
            "execution_duration_ms": 3,
            "state": state,
            "trace_metadata": {"build": "remote", "mlflow.trace_schema.version": "3"},
            "tags": {"service": "remote", "shared": "remote", "mlflow.traceName": "remote root"},
        },
        "data": {
            "spans": [
                span(7, None, "remote root", **{"mlflow.spanInputs": {"q": 1}}),
                span(8, 7, "remote child", **{"mlflow.spanOutputs": ["ü"]}),
            ]
        },
    }


@program()
def added_into_the_active_span(stage):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(tags={"shared": "local"}, metadata={"build": "local"})
        with mlflow.start_span("calls"):
            mlflow.add_trace(remote_trace())


@program()
def added_under_a_target(stage):
    with mlflow.start_span("root") as root:
        target = mlflow.start_span_no_context("target", parent_span=root)
        mlflow.add_trace(Trace.from_dict(remote_trace()), target=target)
        target.end()


@program()
def added_without_a_span(stage):
    mlflow.add_trace(Trace.from_dict(remote_trace()))


@program()
def failed_trace_added_without_a_span(stage):
    mlflow.add_trace(remote_trace(state="ERROR"))


@program()
def added_wrongly(stage):
    errors = []
    with mlflow.start_span("root"):
        for wrong in ({"info": {}}, "text", remote_trace(state="IN_PROGRESS")):
            try:
                mlflow.add_trace(wrong)
                errors.append("none")
            except Exception as error:
                errors.append(type(error).__name__)
    return errors


@program()
def added_while_off(stage):
    mlflow.tracing.disable()
    try:
        mlflow.add_trace(remote_trace())
    finally:
        mlflow.tracing.enable()


@program()
def logged_at_once(stage):
    with contextlib.suppress(AttributeError):
        mlflow.log_trace(
            name="task",
            request={"q": 1},
            response="a",
            attributes={"k": "v"},
            tags={"team": "search"},
            start_time_ms=START // 1_000_000,
            execution_time_ms=5129,
        )
        mlflow.log_trace(request="only", intermediate_outputs={"docs": ["x"]})
