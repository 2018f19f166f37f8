"""Programs that use MLflow's own tracing API, each one trace; run as a process of its own.

`python -m tests.sinks.native_programs sqlite:///… ARTIFACTS OUT` logs them natively and writes to
OUT what a producer would have put on the wire for the same traces: same ids, times and values.
"""

import contextlib
import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

import spanferry_schemas as wire
from tests.sinks.native_media import MEDIA
from tests.sinks.native_wire import EXPERIMENT, Made, as_wire

PROGRAMS: dict[str, Any] = dict(MEDIA)


def program(function):
    PROGRAMS[function.__name__] = function
    return function


@program
def one_span(mlflow):
    with mlflow.start_span("only") as span:
        span.set_inputs({"question": "why?"})
        span.set_outputs("because")


@program
def nested_and_typed(mlflow):
    with mlflow.start_span("agent", span_type="AGENT") as agent:
        agent.set_inputs({"messages": [{"role": "user", "content": "hello"}]})
        with mlflow.start_span("retrieve", span_type="RETRIEVER") as retrieve:
            retrieve.set_outputs([{"page_content": "text", "metadata": {"doc_uri": "a/b"}}])
        with mlflow.start_span("tool", span_type="TOOL") as tool:
            tool.set_inputs({"a": 1, "b": [1.5, None, True, {"c": []}]})
            tool.set_outputs({})
        chain = mlflow.start_span("chain", span_type="CHAIN")
        with chain, mlflow.start_span("model", span_type="CHAT_MODEL") as model:
            model.set_attribute("mlflow.chat.tokenUsage", usage(10, 5))
        agent.set_outputs({"choices": [{"message": {"role": "assistant", "content": "hi!"}}]})


@program
def decorated(mlflow):
    @mlflow.trace(name="outer", attributes={"k": "v"})
    def outer(x, y=2, *args, **kwargs):
        return inner(x) + y

    @mlflow.trace
    def inner(x):
        return x * 2

    outer(3, 4, 5, z=6)


@program
def raises(mlflow):
    @mlflow.trace
    def fails(x):
        raise ValueError("bad ünicode input")

    with contextlib.suppress(ValueError):
        fails(1)


@program
def child_raises(mlflow):
    with mlflow.start_span("root"):
        try:
            with mlflow.start_span("child", span_type="TOOL"):
                raise RuntimeError("inner")
        except RuntimeError:
            pass


@program
def unicode(mlflow):
    with mlflow.start_span("größe 日本語 🎉") as span:
        span.set_inputs({"ключ": "значение", "emoji": "🎉", "sep": "\u2028", "esc": 'a"b\\c/\n\t'})
        span.set_outputs("日本語" * 200)
        span.set_attribute("ünï", "✓")


@program
def none_inputs_and_empty_outputs(mlflow):
    with mlflow.start_span("root") as span:
        span.set_inputs(None)
        span.set_outputs("")


@program
def no_inputs_at_all(mlflow):
    with mlflow.start_span("bare"):
        pass


@program
def numbers(mlflow):
    with mlflow.start_span("numbers") as span:
        span.set_inputs([0, -1, 1.5, 1e-7, 123456789012345678, 0.1, True, False, None])
        span.set_outputs(42)


@program
def tags_and_metadata(mlflow):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(
            tags={"team": "search", "ключ": "ü" * 300},
            metadata={"build": "7", "long": "x" * 240},
            client_request_id="request-17",
        )


@program
def session_and_user(mlflow):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(session_id="session-1", user="user-1")


@program
def own_previews(mlflow):
    with mlflow.start_span("root") as span:
        span.set_inputs({"long": "x" * 3000})
        mlflow.update_current_trace(request_preview="asked", response_preview="answered")
        span.set_outputs("y" * 3000)
    return {"request_preview": "asked", "response_preview": "answered"}


@program
def long_previews(mlflow):
    with mlflow.start_span("root") as span:
        span.set_inputs({"long": "ä" * 3000})
        span.set_outputs(["y" * 3000])


@program
def own_state_ok_on_error(mlflow):
    try:
        with mlflow.start_span("root"):
            mlflow.update_current_trace(state="OK")
            raise RuntimeError("but fine")
    except RuntimeError:
        pass
    return {"state": wire.TraceState.OK}


@program
def own_state_error(mlflow):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(state="ERROR")
    return {"state": wire.TraceState.ERROR}


@program
def own_model_id(mlflow):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(model_id="m-0123456789abcdef")


@program
def own_trace_name(mlflow):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(tags={"mlflow.traceName": "my name"})
    return {"tags": {"mlflow.traceName": "my name"}}


@program
def token_usage_and_cost(mlflow):
    with mlflow.start_span("chat", span_type="CHAIN"):
        for _ in range(2):
            with mlflow.start_span("llm", span_type="LLM") as span:
                span.set_attribute("mlflow.chat.tokenUsage", usage(1000, 500))
                span.set_attribute("mlflow.llm.model", "gpt-4o-mini")
                span.set_attribute("mlflow.llm.provider", "openai")


@program
def token_usage_rolled_up(mlflow):
    with mlflow.start_span("parent", span_type="AGENT") as parent:
        with mlflow.start_span("llm", span_type="LLM") as span:
            span.set_attribute(
                "mlflow.chat.tokenUsage", {**usage(7, 3), "cache_read_input_tokens": 2}
            )
        parent.set_attribute("mlflow.chat.tokenUsage", usage(7, 3))


@program
def foreign_token_usage(mlflow):
    with mlflow.start_span("root", span_type="LLM") as span:
        span.set_attribute("gen_ai.usage.input_tokens", 11)
        span.set_attribute("gen_ai.usage.output_tokens", 4)
        span.set_attribute("gen_ai.request.model", "gpt-4o")
        span.set_attribute("session.id", "from-the-span")
        span.set_attribute("user.id", "user-of-the-span")


@program
def model_in_inputs(mlflow):
    with mlflow.start_span("root", span_type="CHAT_MODEL") as span:
        span.set_inputs({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]})
        span.set_attribute("mlflow.chat.tokenUsage", usage(100, 10))


@program
def events(mlflow):
    from mlflow.entities import SpanEvent

    with mlflow.start_span("root") as span:
        span.add_event(SpanEvent("step", attributes={"n": 1, "f": 0.5, "s": "ü", "b": True}))
        span.add_event(SpanEvent("list", attributes={"l": ["a", "b"]}))
        span.add_event(SpanEvent("empty"))


@program
def kinds_of_another_tracer(mlflow):
    from mlflow.tracing.provider import get_bridged_tracer_provider
    from opentelemetry.trace import SpanKind

    tracer = get_bridged_tracer_provider().get_tracer("a.library")
    with tracer.start_as_current_span("GET /chat", kind=SpanKind.SERVER):
        for kind in SpanKind:
            tracer.start_span(f"step {kind.name}", kind=kind).end()


@program
def links(mlflow):
    from mlflow.entities import Link

    with mlflow.start_span("root") as span:
        span.add_link(Link(trace_id="tr-" + "ab" * 16, span_id="cd" * 8, attributes={"why": "x"}))
        span.add_link(Link(trace_id="tr-" + "01" * 16, span_id="23" * 8))


@program
def big_value(mlflow):
    with mlflow.start_span("root") as span:
        span.set_inputs({"rows": [{"id": i, "text": f"row {i}"} for i in range(3000)]})
        span.set_outputs("z" * 200_000)


@program
def many_spans(mlflow):
    with mlflow.start_span("root"):
        for index in range(60):
            with mlflow.start_span(f"step {index}", span_type="TASK") as span:
                span.set_outputs(index)


@program
def log_levels(mlflow):
    with mlflow.start_span("root") as root:
        root.set_log_level("WARNING")
        with mlflow.start_span("llm", span_type="LLM"):
            pass


@program
def custom_type_and_description(mlflow):
    with mlflow.start_span("root", span_type="MY_TYPE") as span:
        span.set_description("what it does")
        span.set_status("ERROR")


@program
def streamed(mlflow):
    @mlflow.trace
    def stream():
        yield from ["a", "b", "c"]

    list(stream())


@program
def judged(mlflow):
    from mlflow.entities import AssessmentSource

    with mlflow.start_span("root") as span:
        mlflow.log_feedback(
            trace_id=span.trace_id,
            name="good",
            value=True,
            rationale="ja, schön",
            source=AssessmentSource("HUMAN", "someone@example.com"),
            metadata={"k": "v"},
        )
        mlflow.log_feedback(trace_id=span.trace_id, name="score", value=0.5, span_id=span.span_id)
        mlflow.log_feedback(trace_id=span.trace_id, name="failed", error=ValueError("no judge"))
        mlflow.log_expectation(
            trace_id=span.trace_id, name="wanted", value={"answer": ["x", 1, None]}
        )


@program
def slow_child_outlives_root(mlflow):
    import time

    with mlflow.start_span("root"):
        child = mlflow.start_span_no_context("child", parent_span=mlflow.get_current_active_span())
        time.sleep(0.002)
    time.sleep(0.02)
    child.end()


def usage(given: int, made: int) -> dict[str, int]:
    return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}


def main(uri: str, artifacts: str, out: Path, programs: dict[str, Any] = PROGRAMS) -> None:
    import mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracing.export import async_export_queue
    from mlflow.tracing.trace_manager import InMemoryTraceManager

    async_export_queue.Queue = ImpatientQueue
    SqlAlchemyStore(uri, artifacts).create_experiment(EXPERIMENT)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(EXPERIMENT)

    finished: list[Made] = []
    given_values: dict[tuple[str, str], bytes] = {}
    original = InMemoryTraceManager.pop_trace

    def pop_trace(self, otel_trace_id):
        popped = original(self, otel_trace_id)
        if popped is not None:
            finished.append(Made(popped.trace, popped.prompts, dict(given_values)))
        return popped

    InMemoryTraceManager.pop_trace = pop_trace
    keep_given_values(given_values)
    recorded = []
    for name, function in programs.items():
        finished.clear()
        given_values.clear()
        given = function(mlflow) or {}
        mlflow.flush_trace_async_logging()
        for thread in threading.enumerate():
            if thread.name.startswith("link_prompts"):
                thread.join()
        (made,) = finished
        if later := given.pop("later", None):
            given |= later()
        recorded.append(as_wire(name, made, given))
    out.write_bytes(msgspec.msgpack.encode(recorded))


class ImpatientQueue(queue.Queue[Any]):
    """In place of the one whose reader makes every flush wait for a second."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, None if timeout is None else min(timeout, 0.01))


def keep_given_values(values: dict[tuple[str, str], bytes]) -> None:
    """Note what set_inputs and set_outputs are given, where it is JSON: what a producer sends."""
    from mlflow.entities import LiveSpan

    def noting(key: str, original: Any) -> Any:
        def set_value(self: Any, value: Any) -> None:
            with contextlib.suppress(TypeError):
                text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
                if "base64" in text or "data" in text:
                    values[self.span_id, key] = text.encode()
            original(self, value)

        return set_value

    LiveSpan.set_inputs = noting("mlflow.spanInputs", LiveSpan.set_inputs)
    LiveSpan.set_outputs = noting("mlflow.spanOutputs", LiveSpan.set_outputs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
