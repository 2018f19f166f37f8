"""Tracing switched off and on, sampled, and what is done to every span."""

import os

import mlflow

from tests.mlflow_api.registry import program


@mlflow.trace
def work(x):
    with mlflow.start_span("inside"):
        return x


@program()
def off_and_on(stage):
    work(1)
    mlflow.tracing.disable()
    try:
        work(2)
        with mlflow.start_span("off") as span:
            off = type(span).__name__
        detached = type(mlflow.start_span_no_context("off too")).__name__
        mlflow.update_current_trace(tags={"a": "b"})
    finally:
        mlflow.tracing.enable()
    work(3)
    return [off, detached]


@program()
def off_while_open(stage):
    with mlflow.start_span("root"):
        mlflow.tracing.disable()
        try:
            work(1)
        finally:
            mlflow.tracing.enable()
        work(2)


@program()
def reset_in_between(stage):
    work(1)
    mlflow.tracing.reset()
    work(2)


@program()
def sampled_out_by_the_environment(stage):
    os.environ["MLFLOW_TRACE_SAMPLING_RATIO"] = "0"
    mlflow.tracing.reset()
    try:
        work(1)

        @mlflow.trace(sampling_ratio_override=1.0)
        def kept():
            return work(2)

        kept()
        with mlflow.start_span("out") as span:
            child = mlflow.start_span_no_context("child", parent_span=span)
            child.end()
            return [type(span).__name__, type(child).__name__, span.name]
    finally:
        del os.environ["MLFLOW_TRACE_SAMPLING_RATIO"]
        mlflow.tracing.reset()


def redact(span):
    if span.inputs:
        span.set_inputs({"redacted": sorted(map(str, span.inputs))})
    span.set_outputs("redacted")


def mark(span):
    span.set_attribute("marked", f"{span.name} {span.span_type} {span.status.status_code.value}")


def breaks(span):
    raise RuntimeError("in the processor")


@program()
def processors(stage):
    with mlflow.tracing.configure(span_processors=[redact, mark]):
        with mlflow.start_span("root", span_type="LLM") as span:
            span.set_inputs({"password": "secret"})
            work("secret")
            span.set_outputs("secret")
    work("seen")


@program()
def processor_that_fails(stage):
    with mlflow.tracing.configure(span_processors=[mark, breaks, redact]):
        work("secret")
    return "done"


@program()
def processors_for_good(stage):
    mlflow.tracing.configure(span_processors=[mark])
    try:
        work(1)
        mlflow.tracing.configure(span_processors=[])
        work(2)
    finally:
        mlflow.tracing.configure(span_processors=[])


@program()
def processor_sees_the_whole_span(stage):
    found = []

    def look(span):
        found.append(
            {
                "name": span.name,
                "inputs": span.inputs,
                "outputs": span.outputs,
                "status": span.status.status_code.value,
                "events": [event.name for event in span.events],
                "root": span.parent_id is None,
            }
        )
        mlflow.MlflowClient()
        return "ignored"

    with mlflow.tracing.configure(span_processors=[look]):
        try:
            with mlflow.start_span("root") as root:
                root.set_inputs([1])
                work(2)
                raise ValueError("at the end")
        except ValueError:
            pass
    return found
