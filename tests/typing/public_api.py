"""What type checkers must know of spanferry's API: never run, read by test_public_api.py.

The comment behind `reveal_type` is the type that both checkers reveal, without modules and values of
defaults; the comment `error` marks what both must refuse. There must be no other errors.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TypeVar, reveal_type

import mlflow.entities
from fastapi import FastAPI

import spanferry
from spanferry.asgi import TraceMiddleware
from spanferry.testing import capture

T = TypeVar("T")


@spanferry.trace
def plain(question: str, top_k: int = 3, *, strict: bool = False) -> list[str]:
    return [question] * top_k if strict else []


@spanferry.trace(name="other", span_type=spanferry.SpanType.LLM, attributes={"a": 1})
def configured(question: str) -> str:
    return question


@spanferry.trace
async def coroutine(question: str) -> str:
    return question


@spanferry.trace(output_reducer="".join)
def generator(count: int) -> Iterator[str]:
    yield from map(str, range(count))


@spanferry.trace
async def async_generator(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield str(number)


@spanferry.trace
def generic(items: list[T]) -> T:
    return items[0]


@spanferry.trace
def variadic(*parts: str, **options: int) -> int:
    return len(parts) + len(options)


reveal_type(plain)  # (question: str, top_k: int =, *, strict: bool =) -> list[str]
reveal_type(configured)  # (question: str) -> str
reveal_type(coroutine)  # (question: str) -> Coroutine[Any, Any, str]
reveal_type(generator)  # (count: int) -> Iterator[str]
reveal_type(async_generator)  # (count: int) -> AsyncIterator[str]
reveal_type(variadic)  # (*parts: str, **options: int) -> int
reveal_type(generic([1]))  # int
reveal_type(spanferry.trace(len)([1]))  # int
plain(3)  # error
plain("q", strict=1)  # error
configured()  # error


class Service:
    @spanferry.trace
    def method(self, question: str) -> str:
        return question

    @spanferry.trace(span_type="TOOL")
    async def coroutine(self, question: str) -> str:
        return question

    @classmethod
    @spanferry.trace
    def of_class(cls, question: str) -> str:
        return question

    @staticmethod
    @spanferry.trace
    def static(question: str) -> str:
        return question

    @spanferry.trace
    @classmethod
    def outside_of_class(cls, question: str) -> str:
        return question

    @property
    @spanferry.trace
    def size(self) -> int:
        return 1


reveal_type(Service().method)  # (question: str) -> str
reveal_type(Service().coroutine)  # (question: str) -> Coroutine[Any, Any, str]
reveal_type(Service.of_class)  # (question: str) -> str
reveal_type(Service.outside_of_class)  # (question: str) -> str
reveal_type(Service.static)  # (question: str) -> str
reveal_type(Service().size)  # int
Service().method(3)  # error


async def used() -> None:
    reveal_type(await coroutine("q"))  # str
    async for item in async_generator(3):
        reveal_type(item)  # str
    reveal_type(await Service().coroutine("q"))  # str


def spans() -> int:
    with spanferry.start_span("name", span_type="LLM", attributes={"a": 1}) as span:
        reveal_type(span)  # Span
        reveal_type(span.trace_id)  # str
        reveal_type(span.parent_id)  # str | None
        reveal_type(span.end_time_ns)  # int | None
        reveal_type(span.status)  # SpanStatus
        reveal_type(span.events)  # list[SpanEvent]
        span.set_inputs({"any": object()})
        span.set_status(spanferry.SpanStatusCode.ERROR)
        span.set_status("OK")
        span.add_event(spanferry.SpanEvent("retry", attributes={"attempt": 2}))
        span.add_link(spanferry.Link("tr-1", "b7ad6b7169203331"))
        span.set_log_level(spanferry.SpanLogLevel.WARNING)
        span.set_status(spanferry.SpanStatus("ERROR", "why"))
        span.set_inputs()  # error
        return 1  # a span swallows no exception, so nothing has to follow


def mlflows(event: mlflow.entities.SpanEvent, link: mlflow.entities.Link) -> None:
    span = spanferry.start_span_no_context("name", links=[link])
    span.add_event(event)
    span.add_link(link)
    span.set_status(mlflow.entities.SpanStatus(mlflow.entities.SpanStatusCode.OK))


def context() -> int:
    with (
        spanferry.context(metadata={"a": "b"}, tags={"c": "d"}, session_id="s", user="u"),
        spanferry.context(enabled=False),
        spanferry.set_active_model(name="agent", params={"k": 1}) as model,
        spanferry.set_tracing_context_from_http_request_headers({"traceparent": ""}) as nothing,
    ):
        reveal_type(model)  # ActiveModel
        reveal_type(nothing)  # None
        return 1


reveal_type(spanferry.start_span_no_context("name", inputs=1))  # Span
reveal_type(spanferry.get_current_active_span())  # Span | None
reveal_type(spanferry.get_active_trace_id())  # str | None
reveal_type(spanferry.get_last_active_trace_id(thread_local=True))  # str | None
reveal_type(spanferry.get_tracing_context_headers_for_http_request())  # dict[str, str]
reveal_type(spanferry.disable)  # () -> None
spanferry.update_current_trace({"tag": "text"}, state="ERROR", session_id="s", user="u")
spanferry.update_current_trace(session="s")  # error
reveal_type(spanferry.git_version())  # str | None
reveal_type(spanferry.set_active_model(model_id="m-1").name)  # str | None
reveal_type(spanferry.clear_active_model)  # () -> None
reveal_type(spanferry.flush(timeout_s=1))  # bool
reveal_type(spanferry.stats().dropped)  # dict[str, int]
reveal_type(spanferry.NoOpSpan().recording)  # bool
statistics: spanferry.Stats = spanferry.stats()
reveal_type(spanferry.ConfigurationError("why"))  # ConfigurationError
spanferry.enable(bootstrap_servers="kafka:9092", drop="oldest", metadata={"replicas": 3})
spanferry.enable(redact=spanferry.Redaction(presets=["emails"], fields=["ssn"]))
reveal_type(spanferry.Redaction(function=lambda value, place: value).identities)  # bool
spanferry.Redaction(preset="emails")  # error
spanferry.enable(bootstrap_server="kafka:9092")  # error
spanferry.enable(drop="random")  # error
spanferry.start_span(3)  # error

judged = spanferry.log_feedback(client_request_id="r-1", value=True)
reveal_type(judged)  # Assessment | None
if judged is not None:
    reveal_type(judged.assessment_id)  # str
reveal_type(spanferry.log_expectation(trace_id="tr-1", name="answer", value=1))  # Assessment | None
reveal_type(spanferry.override_feedback(assessment_id="a-1", value=1))  # Assessment | None
spanferry.log_feedback("tr-1")  # error
spanferry.log_expectation(trace_id="tr-1", name="answer")  # error
spanferry.override_feedback(trace_id="tr-1", value=1)  # error

ours = spanferry.AssessmentSource(spanferry.AssessmentSourceType.HUMAN, "ann")
reveal_type(ours.source_id)  # str | None
spanferry.log_feedback(
    trace_id="tr-1", source=ours, error=spanferry.AssessmentError("CODE", "message")
)
spanferry.log_feedback(
    trace_id="tr-1",
    source=mlflow.entities.AssessmentSource("HUMAN", "ann"),
    error=mlflow.entities.AssessmentError("CODE", "message"),
)
spanferry.log_assessment("tr-1", mlflow.entities.Feedback(name="n", value=1.0))
spanferry.log_assessment("tr-1", mlflow.entities.Expectation(name="n", value=1))
spanferry.log_assessment("tr-1", "good")  # error

app = FastAPI()
app.add_middleware(TraceMiddleware, exclude=["/healthz"], capture_bodies=True)
app.add_middleware(TraceMiddleware, excluded=["/healthz"])  # error

with capture() as captured:
    reveal_type(captured.traces[0].root.inputs)  # Any
    reveal_type(captured.assessments[0].name)  # str
