"""mlflow.openai.autolog."""

import asyncio
import contextlib

import mlflow

from tests.mlflow_api.registry import program

NEEDS = ("openai",)
QUESTION = [{"role": "user", "content": "What is two and three?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        },
    },
}


@contextlib.contextmanager
def logged(stage, kind="OpenAI"):
    """A client whose calls are traced."""
    import openai

    mlflow.openai.autolog()
    try:
        yield getattr(openai, kind)(
            base_url=f"{stage.models_url}/v1", api_key="none", max_retries=0, timeout=120
        )
    finally:
        mlflow.openai.autolog(disable=True)


@program(needs=NEEDS)
def openai_chat(stage):
    with logged(stage) as client:
        answer = client.chat.completions.create(
            model="gpt-4o-mini", messages=QUESTION, temperature=0.5
        )
        with mlflow.start_span("root", span_type="AGENT"):
            client.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, max_tokens=10)
    return answer.choices[0].message.content


@program(needs=NEEDS)
def openai_chat_streamed(stage):
    with logged(stage) as client:
        chunks = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        with mlflow.start_span("root"):
            list(
                client.chat.completions.create(
                    model="gpt-4o-mini", messages=QUESTION, stream=True, tools=[TOOL]
                )
            )
    return text


@program(needs=NEEDS)
def openai_tool_call(stage):
    with logged(stage) as client, mlflow.start_span("agent", span_type="AGENT") as agent:
        asked = client.chat.completions.create(model="gpt-4o", messages=QUESTION, tools=[TOOL])
        message = asked.choices[0].message
        with mlflow.start_span("add", span_type="TOOL") as tool:
            tool.set_inputs({"a": 2, "b": 3})
            tool.set_outputs(5)
        history = [
            *QUESTION,
            message,
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "5"},
        ]
        answer = client.chat.completions.create(model="gpt-4o", messages=history, tools=[TOOL])
        agent.set_outputs(answer.choices[0].message.content)


@program(needs=NEEDS)
def openai_async(stage):
    async def main():
        with logged(stage, "AsyncOpenAI") as client:
            answer = await client.chat.completions.create(model="gpt-4o", messages=QUESTION)
            with mlflow.start_span("root"):
                stream = await client.chat.completions.create(
                    model="gpt-4o", messages=QUESTION, stream=True
                )
                count = len([chunk async for chunk in stream])
            await client.close()
        return [answer.choices[0].message.content, count]

    return asyncio.run(main())


@program(needs=NEEDS)
def openai_error(stage):
    import openai

    errors = []
    with logged(stage) as client:
        for options in ({}, {"stream": True}):
            try:
                client.chat.completions.create(model="broken", messages=QUESTION, **options)
            except openai.APIError as error:
                errors.append(type(error).__name__)
        with contextlib.suppress(openai.APIError), mlflow.start_span("root"):
            client.embeddings.create(model="broken", input="x")
    return errors


@program(needs=NEEDS)
def openai_responses(stage):
    with logged(stage) as client:
        answer = client.responses.create(model="gpt-4o", input="What is two and three?")
        events = list(client.responses.create(model="gpt-4o", input=QUESTION, stream=True))
    return [answer.output_text, len(events)]


@program(needs=NEEDS)
def openai_embeddings(stage):
    with logged(stage) as client:
        made = client.embeddings.create(
            model="text-embedding-3-small", input=["a", "b"], encoding_format="float"
        )
    return len(made.data)


@program(needs=NEEDS)
def openai_with_an_image(stage):
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    with logged(stage) as client:
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": content}]
        )


@program(needs=NEEDS)
def openai_in_a_context(stage):
    with (
        logged(stage) as client,
        mlflow.tracing.context(tags={"team": "search"}, metadata={"mlflow.trace.session": "s-1"}),
    ):
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
        with mlflow.tracing.context(enabled=False):
            client.chat.completions.create(model="gpt-4o", messages=QUESTION)
