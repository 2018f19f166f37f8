"""The traced app in its forms, told apart from the SDK that traces it.

Each takes what an SDK offers (a context manager, a decorator) and returns a recorder: what makes one
trace from a payload and returns when the calling thread is free again.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.payloads import SpanPayload, TracePayload

__all__ = [
    "Away",
    "Recorder",
    "StartSpan",
    "awaiting",
    "decorated",
    "fluent",
    "inputs_first",
    "spans",
    "tree",
]

Recorder = Callable[..., Any]
"""Makes one trace of a payload. In the style "async" it is a coroutine function and takes an Away too."""
Away = Callable[[], Awaitable[None]]
"""Where the traced app waits for something else, and tracing costs nothing."""
StartSpan = Callable[..., AbstractContextManager[Any]]
"""start_span(name, span_type=...): a span with set_inputs and set_outputs."""


def fluent(start_span: StartSpan, trace: Any) -> dict[str, Recorder]:
    """All styles of MLflow's fluent API, which spanferry shares."""
    return {**spans(start_span), "decorated": decorated(trace)}


def spans(start_span: StartSpan) -> dict[str, Recorder]:
    """The styles that need context managers only, and what they are made of, for other apps."""
    return {
        "with": _nested(start_span),
        "tree": tree(start_span),
        "async": awaiting(start_span),
        "span": start_span,
    }


def _nested(start_span: StartSpan) -> Recorder:
    def record(payload: TracePayload) -> None:
        with start_span("answer", span_type="AGENT") as agent:
            agent.set_inputs(payload.agent[0])
            with start_span("retrieve", span_type="RETRIEVER") as retriever:
                retriever.set_inputs(payload.retriever[0])
                retriever.set_outputs(payload.retriever[1])
            with start_span("look_up", span_type="TOOL") as tool:
                tool.set_inputs(payload.tool[0])
                tool.set_outputs(payload.tool[1])
            with start_span("compose", span_type="CHAIN") as chain:
                chain.set_inputs(payload.chain[0])
                with start_span("model", span_type="CHAT_MODEL") as model:
                    model.set_inputs(payload.chat_model[0])
                    model.set_outputs(payload.chat_model[1])
                chain.set_outputs(payload.chain[1])
            agent.set_outputs(payload.agent[1])

    return record


def awaiting(start_span: StartSpan) -> Recorder:
    """The same five spans in a coroutine that waits inside of four of them."""

    async def record(payload: TracePayload, away: Away) -> None:
        with start_span("answer", span_type="AGENT") as agent:
            agent.set_inputs(payload.agent[0])
            await away()
            with start_span("retrieve", span_type="RETRIEVER") as retriever:
                retriever.set_inputs(payload.retriever[0])
                await away()
                retriever.set_outputs(payload.retriever[1])
            with start_span("look_up", span_type="TOOL") as tool:
                tool.set_inputs(payload.tool[0])
                await away()
                tool.set_outputs(payload.tool[1])
            with start_span("compose", span_type="CHAIN") as chain:
                chain.set_inputs(payload.chain[0])
                with start_span("model", span_type="CHAT_MODEL") as model:
                    model.set_inputs(payload.chat_model[0])
                    await away()
                    model.set_outputs(payload.chat_model[1])
                chain.set_outputs(payload.chain[1])
            agent.set_outputs(payload.agent[1])

    return record


def tree(start_span: StartSpan) -> Recorder:
    """As many spans as the payload has."""

    def record(payload: SpanPayload) -> None:
        with start_span("step", span_type=payload.span_type) as span:
            span.set_inputs(payload.inputs)
            for child in payload.children:
                record(child)
            span.set_outputs(payload.outputs)

    return record


def decorated(trace: Any) -> Recorder:
    """The same five spans as decorated functions: arguments and results are inputs and outputs."""
    current: list[TracePayload] = []

    @trace(name="retrieve", span_type="RETRIEVER")
    def retrieve(request: Any) -> Any:
        return current[0].retriever[1]

    @trace(name="look_up", span_type="TOOL")
    def look_up(request: Any) -> Any:
        return current[0].tool[1]

    @trace(name="model", span_type="CHAT_MODEL")
    def model(request: Any) -> Any:
        return current[0].chat_model[1]

    @trace(name="compose", span_type="CHAIN")
    def compose(request: Any) -> Any:
        model(current[0].chat_model[0])
        return current[0].chain[1]

    @trace(name="answer", span_type="AGENT")
    def answer(request: Any) -> Any:
        retrieve(current[0].retriever[0])
        look_up(current[0].tool[0])
        compose(current[0].chain[0])
        return current[0].agent[1]

    def record(payload: TracePayload) -> None:
        current[:] = [payload]
        answer(payload.agent[0])

    return record


def inputs_first(start: StartSpan, finish: Callable[[Any, Any], None]) -> Recorder:
    """The same five spans for SDKs whose spans are opened with their inputs.

    `start(name, span_type, inputs)` opens one, `finish(span, outputs)` gives it its outputs.
    """

    def record(payload: TracePayload) -> None:
        with start("answer", "AGENT", payload.agent[0]) as agent:
            with start("retrieve", "RETRIEVER", payload.retriever[0]) as retriever:
                finish(retriever, payload.retriever[1])
            with start("look_up", "TOOL", payload.tool[0]) as tool:
                finish(tool, payload.tool[1])
            with start("compose", "CHAIN", payload.chain[0]) as chain:
                with start("model", "CHAT_MODEL", payload.chat_model[0]) as model:
                    finish(model, payload.chat_model[1])
                finish(chain, payload.chain[1])
            finish(agent, payload.agent[1])

    return record
