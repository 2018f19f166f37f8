"""update_current_trace, tracing.context, sessions, users, previews, tokens and costs."""

import contextlib

import mlflow
from mlflow.entities import TraceState

from tests.mlflow_api.registry import program


@program(since="3.12")
def update_everything(stage):
    with mlflow.start_span("root") as root:
        root.set_inputs("not shown")
        mlflow.update_current_trace(
            tags={"team": "search", "ключ": "ü" * 200},
            metadata={"build": "7", "long": "x" * 240},
            client_request_id="request-17",
            request_preview="asked",
            response_preview="answered",
            state="ERROR",
            model_id="m-0123456789abcdef0123456789abcdef",
            session_id="session-1",
            user="user-1",
        )
        root.set_outputs("not shown either")


@program(since="3.12")
def updated_several_times(stage):
    @mlflow.trace
    def inner():
        mlflow.update_current_trace(tags={"b": "inner", "c": "3"}, session_id="second")
        mlflow.update_current_trace(client_request_id="second")

    with mlflow.start_span("root"):
        mlflow.update_current_trace(tags={"a": "1", "b": "outer"}, session_id="first", user="u")
        mlflow.update_current_trace(client_request_id="first", metadata={"m": "1"})
        inner()
        mlflow.update_current_trace(metadata={"m": "2"}, tags={})
        mlflow.update_current_trace()


@program()
def update_with_other_types(stage):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(
            tags={"n": 1, "f": 0.5, "b": True, "none": None, "list": [1]},
            metadata={"n": 1, "d": {"a": 1}, "none": None},
            client_request_id=42,
        )


@program()
def update_with_a_key_that_is_no_text(stage):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(tags={7: "key"})


@program()
def update_without_a_trace(stage):
    return mlflow.update_current_trace(tags={"a": "1"})


@program()
def update_wrongly(stage):
    errors = []
    with mlflow.start_span("root"):
        for arguments in ({"request_preview": 1}, {"response_preview": []}, {"state": "MAYBE"}):
            try:
                mlflow.update_current_trace(tags={"kept": "yes"}, **arguments)
            except Exception as error:
                errors.append(type(error).__name__)
    return errors


@program()
def state_over_status(stage):
    with contextlib.suppress(RuntimeError), mlflow.start_span("fails but is fine"):
        mlflow.update_current_trace(state=TraceState.OK)
        raise RuntimeError("expected")
    with mlflow.start_span("works but is not fine"):
        mlflow.update_current_trace(state="ERROR")


@program()
def reserved_names(stage):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(
            tags={"mlflow.traceName": "my name", "mlflow.note.content": "note"},
            metadata={
                "mlflow.source.name": "inference.py",
                "mlflow.source.git.commit": "1234567890",
                "mlflow.trace.user": "somebody",
            },
        )


@program()
def long_tags_and_metadata(stage):
    with mlflow.start_span("root"):
        mlflow.update_current_trace(
            tags={"long": "t" * 3_000, "k" * 200: "long key"},
            metadata={"long": "m" * 1_000, "emoji": "🎉" * 120},
        )


@program()
def previews_of_long_values(stage):
    with mlflow.start_span("root") as span:
        span.set_inputs({"long": "ä" * 3_000})
        span.set_outputs(["y" * 3_000])


@program()
def previews_of_messages(stage):
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": [{"type": "text", "text": "last question"}]},
    ]
    answers = (
        {"choices": [{"message": {"role": "assistant", "content": "hi!"}}]},
        {"messages": [{"role": "assistant", "content": "done"}]},
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "out"}]}]},
        {"choices": []},
    )
    for number, answer in enumerate(answers):
        with mlflow.start_span(f"chat {number}", span_type="CHAT_MODEL") as span:
            span.set_inputs({"messages": chat, "model": "gpt-4o"})
            span.set_outputs(answer)


@program()
def preview_of_an_error(stage):
    with contextlib.suppress(ValueError), mlflow.start_span("root") as span:
        span.set_inputs({"q": 1})
        raise ValueError("no answer")


def usage(given, made, **more):
    return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made, **more}


@program()
def token_usage_and_cost(stage):
    with mlflow.start_span("chat", span_type="CHAIN"):
        for _ in range(2):
            with mlflow.start_span("llm", span_type="LLM") as span:
                span.set_attribute("mlflow.chat.tokenUsage", usage(1000, 500))
                span.set_attribute("mlflow.llm.model", "gpt-4o-mini")
                span.set_attribute("mlflow.llm.provider", "openai")


@program()
def token_usage_rolled_up(stage):
    with mlflow.start_span("parent", span_type="AGENT") as parent:
        with mlflow.start_span("llm", span_type="LLM") as span:
            span.set_attribute("mlflow.chat.tokenUsage", usage(7, 3, cache_read_input_tokens=2))
            span.set_attribute("model", "of my own")
        parent.set_attribute("mlflow.chat.tokenUsage", usage(7, 3))


@program()
def model_taken_from_the_inputs(stage):
    with mlflow.start_span("root", span_type="CHAT_MODEL") as span:
        span.set_inputs({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]})
        span.set_attribute("mlflow.chat.tokenUsage", usage(100, 10))


@program()
def usage_in_foreign_words(stage):
    with mlflow.start_span("root", span_type="LLM") as span:
        span.set_attribute("gen_ai.usage.input_tokens", 11)
        span.set_attribute("gen_ai.usage.output_tokens", 4)
        span.set_attribute("gen_ai.request.model", "gpt-4o")
        span.set_attribute("session.id", "from-the-span")
        span.set_attribute("user.id", "user-of-the-span")


@program()
def cost_by_hand(stage):
    with mlflow.start_span("root", span_type="LLM") as span:
        span.set_attribute("mlflow.chat.tokenUsage", usage(10, 5))
        span.set_attribute(
            "mlflow.llm.cost", {"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.3}
        )


@program()
def tools_of_a_chat(stage):
    tool = {
        "type": "function",
        "function": {
            "name": "add",
            "description": "adds",
            "parameters": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
    }
    with mlflow.start_span("root", span_type="CHAT_MODEL") as span:
        mlflow.tracing.set_span_chat_tools(span, [tool])
        span.set_outputs({"choices": []})


@program(since="3.12")
def context_of_traces(stage):
    with mlflow.tracing.context(
        metadata={"build": "7"}, tags={"team": "search"}, session_id="s-1", user="u-1"
    ):
        with mlflow.start_span("first"), mlflow.start_span("child"):
            pass
        with mlflow.tracing.context(tags={"team": "inner", "more": "x"}, session_id="s-2"):
            mlflow.start_span_no_context("second").end()
            with mlflow.start_span("third"):
                mlflow.update_current_trace(tags={"team": "updated"}, user="u-2")
    with mlflow.start_span("outside"):
        pass


@program(since="3.18")
def session_by_levels(stage):
    with mlflow.tracing.context(session_id=["trip-1", "épisode-2"]), mlflow.start_span("first"):
        pass
    with mlflow.start_span("second"):
        mlflow.update_current_trace(session_id=["trip-1", "épisode-2", "turn-3"])


@program()
def context_inside_a_trace(stage):
    with mlflow.start_span("root"), mlflow.tracing.context(tags={"late": "yes"}):
        with mlflow.start_span("child"):
            pass
        with mlflow.tracing.context(enabled=False), mlflow.start_span("off"):
            with mlflow.start_span("off too"):
                pass
        with mlflow.start_span("on again"):
            pass


@program()
def context_off_and_on(stage):
    @mlflow.trace
    def work(x):
        return x

    with mlflow.tracing.context(enabled=False):
        work(1)
        with mlflow.tracing.context(enabled=True):
            work(2)
        with mlflow.tracing.context(tags={"a": "b"}):
            work(3)
    work(4)
