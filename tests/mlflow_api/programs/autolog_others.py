"""Autolog of Anthropic, Groq and Pydantic AI."""

import asyncio
import contextlib

import mlflow

from tests.mlflow_api.registry import program

QUESTION = [{"role": "user", "content": "What is two and three?"}]
TOOL = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}},
}


@contextlib.contextmanager
def logged(flavor):
    """Its calls are traced meanwhile."""
    flavor.autolog()
    try:
        yield
    finally:
        flavor.autolog(disable=True)


def anthropic_client(stage, kind="Anthropic"):
    import anthropic

    return getattr(anthropic, kind)(
        base_url=stage.models_url, api_key="none", max_retries=0, timeout=120
    )


@program(needs=("anthropic",))
def anthropic_messages(stage):
    with logged(mlflow.anthropic), anthropic_client(stage) as client:
        answer = client.messages.create(
            model="claude-sonnet-4-5", max_tokens=100, messages=QUESTION, system="be brief"
        )
        with mlflow.start_span("agent", span_type="AGENT"):
            client.messages.create(
                model="claude-sonnet-4-5", max_tokens=100, messages=QUESTION, tools=[TOOL]
            )
    return answer.content[0].text


@program(needs=("anthropic",))
def anthropic_streamed_and_async(stage):
    async def main():
        async with anthropic_client(stage, "AsyncAnthropic") as client:
            answer = await client.messages.create(
                model="claude-sonnet-4-5", max_tokens=100, messages=QUESTION
            )
            return answer.stop_reason

    with logged(mlflow.anthropic), anthropic_client(stage) as client:
        with client.messages.stream(
            model="claude-sonnet-4-5", max_tokens=100, messages=QUESTION
        ) as stream:
            text = "".join(stream.text_stream)
        return [text, asyncio.run(main())]


@program(needs=("anthropic",))
def anthropic_image_and_error(stage):
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    with logged(mlflow.anthropic), anthropic_client(stage) as client:
        client.messages.create(
            model="claude-sonnet-4-5",
            max_tokens=100,
            messages=[{"role": "user", "content": content}],
        )
        try:
            client.messages.create(model="broken", max_tokens=1, messages=QUESTION)
        except Exception as error:
            return type(error).__name__


@program(needs=("groq",))
def groq_chat(stage):
    import groq

    with (
        logged(mlflow.groq),
        groq.Groq(base_url=stage.models_url, api_key="none", max_retries=0, timeout=120) as client,
    ):
        answer = client.chat.completions.create(model="llama-3.3-70b", messages=QUESTION)
        try:
            client.chat.completions.create(model="broken", messages=QUESTION)
        except groq.APIError:
            pass
    return answer.choices[0].message.content


@program(needs=("pydantic_ai", "openai"))
def pydantic_ai_agent(stage):
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    with logged(mlflow.pydantic_ai):
        provider = OpenAIProvider(base_url=f"{stage.models_url}/v1", api_key="none")
        agent = Agent(OpenAIChatModel("gpt-4o", provider=provider), system_prompt="use the tool")

        @agent.tool_plain
        def add(a: int, b: int) -> int:
            """Adds two numbers."""
            return a + b

        return agent.run_sync("two and three?").output
