"""Spans of OpenTelemetry's own API, under and over MLflow's."""

import mlflow
from opentelemetry import trace as otel
from opentelemetry.trace import Status, StatusCode

from tests.mlflow_api.registry import program


def tracer():
    from mlflow.tracing.provider import get_bridged_tracer_provider

    return get_bridged_tracer_provider().get_tracer("a.library", "1.0")


@program(since="3.15")
def otel_alone(stage):
    with tracer().start_as_current_span("otel root", attributes={"a": 1, "b": ["x"]}) as root:
        root.add_event("step", {"n": 1})
        with tracer().start_as_current_span("otel child") as child:
            child.set_attribute("gen_ai.request.model", "gpt-4o")
        root.set_status(Status(StatusCode.ERROR, "in words"))


@program(since="3.15")
def otel_under_mlflow(stage):
    from mlflow.tracing.provider import get_current_context

    with mlflow.start_span("root") as root:
        with tracer().start_span("otel child", context=get_current_context()) as child:
            child.set_attribute("http.method", "GET")
            child.record_exception(ValueError("seen"))
        root.set_outputs(1)


@program(since="3.15")
def mlflow_under_otel(stage):
    with tracer().start_as_current_span("otel root") as root:
        root.set_attribute("mlflow.spanInputs", '{"q": 1}')
        with mlflow.start_span("mlflow span") as span:
            span.set_inputs({"a": 1})
            return span.parent_id is None


@program(since="3.15")
def otel_in_the_mlflow_context(stage):
    from mlflow.tracing.provider import safe_set_span_in_context

    @mlflow.trace
    def outer():
        span = mlflow.get_current_active_span()
        with safe_set_span_in_context(span):
            made = tracer().start_span("otel", context=otel.set_span_in_context(span._span))
            made.end()
        return 1

    return outer()


@program(since="3.15")
def otel_in_words_of_genai(stage):
    with tracer().start_as_current_span("chat gpt-4o") as span:
        span.set_attribute("gen_ai.operation.name", "chat")
        span.set_attribute("gen_ai.usage.input_tokens", 12)
        span.set_attribute("gen_ai.usage.output_tokens", 3)
        span.set_attribute("gen_ai.response.model", "gpt-4o-mini")
        span.set_attribute("gen_ai.conversation.id", "conversation-1")
