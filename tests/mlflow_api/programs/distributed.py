"""A trace over two services, both of them in this process."""

import threading

import mlflow
from mlflow.tracing import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)

from tests.mlflow_api.registry import program


def elsewhere(function, *arguments):
    """Run it in a thread without our context, as another service would."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


@program()
def headers_to_another_service(stage):
    seen = {}

    @mlflow.trace(name="handler", span_type="TOOL")
    def handler(question):
        with mlflow.start_span("inside the handler"):
            return question.upper()

    def service(headers):
        with set_tracing_context_from_http_request_headers(headers):
            seen["answer"] = handler("why?")
            seen["current"] = mlflow.get_current_active_span() is None

    with mlflow.start_span("client") as span:
        span.set_inputs("why?")
        headers = get_tracing_context_headers_for_http_request()
        elsewhere(service, headers)
        span.set_outputs(seen["answer"])
    return {"headers": sorted(headers), "seen": seen}


@program()
def service_answers_with_an_error(stage):
    def service(headers):
        try:
            with set_tracing_context_from_http_request_headers(headers):
                with mlflow.start_span("handler"):
                    raise ValueError("wrong question")
        except ValueError:
            pass

    with mlflow.start_span("client"), mlflow.start_span("request"):
        elsewhere(service, get_tracing_context_headers_for_http_request())


@program()
def headers_of_nobody(stage):
    empty = get_tracing_context_headers_for_http_request()
    errors = []
    for headers in ({}, {"traceparent": "nonsense"}):
        try:
            with (
                set_tracing_context_from_http_request_headers(headers),
                mlflow.start_span("root of its own"),
            ):
                pass
        except Exception as error:
            errors.append(type(error).__name__)
    return [empty, errors]
