"""A chat service with production tracing: FastAPI, a retriever, a model, streaming, feedback.

    pip install spanferry fastapi uvicorn
    export SPANFERRY_BOOTSTRAP_SERVERS=localhost:9092
    uvicorn chat_service:app

Every request is one trace in MLflow, found again by its X-Request-ID, its user, session, version and
deployment, and by what its user said of it. The model is a fake, so that this runs anywhere; put yours
into `FakeModel`.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Header, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import spanferry
from spanferry import SpanType
from spanferry.asgi import TraceMiddleware

VERSION = "2.4.0"
MODEL = "parrot-1"
TEMPERATURE = 0.2
AGENT = spanferry.git_version(__file__) or f"chat-agent-{VERSION}".replace(".", "-")
"""What MLflow lists as a version of this app: traces, ratings and evaluations are by it."""
DOCUMENTS = {
    "kb://billing/refunds": "Refunds are paid back to the card within five working days.",
    "kb://billing/invoices": "Invoices are sent on the first day of every month, as PDF.",
    "kb://account/password": "A password can be reset from the sign-in page, by mail.",
    "kb://account/deletion": "Accounts are deleted 30 days after the owner asked for it.",
    "kb://shipping/times": "Parcels arrive in two to four working days within the country.",
    "kb://shipping/returns": "Goods can be returned within 30 days, in their original box.",
}


Turn = dict[str, str]
"""One message of a conversation: `role` and `content`."""


class Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(BaseModel):
    message: str
    history: list[Message] = []

    def turns(self) -> list[Turn]:
        """The history as plain data, which costs tracing least."""
        return [{"role": turn.role, "content": turn.content} for turn in self.history]


class ChatReply(BaseModel):
    answer: str
    sources: list[str]
    trace_id: str | None


class Feedback(BaseModel):
    """A user's word on an answer."""

    is_correct: bool
    comment: str | None = None


class ModelOverloadedError(Exception):
    """The model has no capacity left; the client may try again."""


class FakeModel:
    """Answers with the first fact it is given, the same question always with the same answer."""

    async def answer(self, messages: list[Turn]) -> str:
        """The whole answer; for one question in twenty raises ModelOverloadedError."""
        question = messages[-1]["content"]
        await asyncio.sleep(0.02)
        if blake2b(question.encode(), digest_size=1).digest()[0] % 20 == 0:
            raise ModelOverloadedError(f"{MODEL} is overloaded, try again later")
        first_fact = messages[0]["content"].splitlines()[1]
        return f"{first_fact} Does that answer your question?"


model = FakeModel()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Traces leave for Kafka from here on; at the end the rest is flushed."""
    spanferry.enable(
        experiment=os.environ.get("SPANFERRY_EXPERIMENT", "chat-service"),
        metadata={
            "app_version": VERSION,
            "environment": os.environ.get("APP_ENVIRONMENT", "development"),
            "deployment_id": os.environ.get("DEPLOYMENT_ID"),
            "region": os.environ.get("REGION", "local"),
        },
    )
    spanferry.set_active_model(name=AGENT, params={"model": MODEL, "temperature": TEMPERATURE})
    yield
    spanferry.disable()


app = FastAPI(title="Chat service", lifespan=lifespan)
# One trace for every request; X-Request-ID, X-Session-ID and X-User-ID go to it by themselves.
app.add_middleware(TraceMiddleware, exclude=["/chat_feedback", "/stats"], capture_bodies=True)


@app.post("/chat")
async def post_chat(request: ChatRequest) -> ChatReply:
    """Answer at once."""
    try:
        return await chat(request.message, request.turns())
    except ModelOverloadedError as error:
        raise HTTPException(503, str(error)) from error


@app.post("/chat/stream")
async def post_chat_stream(request: ChatRequest) -> StreamingResponse:
    """Answer word by word."""
    return StreamingResponse(chat_stream(request.message, request.turns()), media_type="text/plain")


@app.post("/chat_feedback", status_code=202)
async def post_chat_feedback(
    feedback: Feedback,
    client_request_id: Annotated[str, Query(description="X-Request-ID of the request to /chat")],
    x_user_id: Annotated[str, Header()] = "anonymous",
) -> None:
    """Attach a user's judgement to the trace; it may arrive before the trace does."""
    spanferry.log_feedback(
        client_request_id=client_request_id,
        name="response_is_correct",
        value=feedback.is_correct,
        rationale=feedback.comment,
        source=spanferry.AssessmentSource("HUMAN", x_user_id),
    )


@app.get("/stats")
async def get_stats() -> dict[str, Any]:
    """What became of this process's traces: for dashboards and alarms."""
    stats: dict[str, Any] = msgspec.to_builtins(spanferry.stats())
    return stats


@spanferry.trace(name="chat", span_type=SpanType.AGENT)
async def chat(message: str, history: list[Turn]) -> ChatReply:
    """One turn of the conversation."""
    describe_trace(message)
    documents = await retrieve(message)
    answer = await complete(prompt(message, history, documents))
    spanferry.update_current_trace(response_preview=answer)
    sources = [document["metadata"]["doc_uri"] for document in documents]
    return ChatReply(answer=answer, sources=sources, trace_id=spanferry.get_active_trace_id())


@spanferry.trace(name="chat_stream", span_type=SpanType.AGENT, output_reducer="".join)
async def chat_stream(message: str, history: list[Turn]) -> AsyncIterator[str]:
    """The same, word by word; a model that is overloaded says so instead."""
    describe_trace(message)
    documents = await retrieve(message)
    try:
        answer = await complete(prompt(message, history, documents))
    except ModelOverloadedError as error:
        answer = str(error)
    spanferry.update_current_trace(response_preview=answer)
    for word in re.findall(r"\S+\s*", answer):
        await asyncio.sleep(0.001)
        yield word


def describe_trace(message: str) -> None:
    """What one wants to search and group by later. Metadata is for good, tags may be changed."""
    spanferry.update_current_trace(
        request_preview=message[:1000], tags={"team": "support", "topic": topic(message)}
    )


def topic(message: str) -> str:
    """A word to group traces by."""
    words = set(re.findall(r"\w+", message.lower()))
    topics = {uri.split("/")[2] for uri in DOCUMENTS} | {uri.split("/")[3] for uri in DOCUMENTS}
    return min(words & topics, default="other")


@spanferry.trace(span_type=SpanType.RETRIEVER)
async def retrieve(query: str) -> list[dict[str, Any]]:
    """The three documents nearest to the question, in the form that MLflow's UI shows."""
    with spanferry.start_span("embed", span_type=SpanType.EMBEDDING) as span:
        span.set_inputs({"text": query[:2000]})
        wanted = set(re.findall(r"\w{4,}", query.lower()))
        span.set_outputs({"terms": sorted(wanted)[:20]})
    await asyncio.sleep(0.002)

    def distance(document: tuple[str, str]) -> int:
        return -len(wanted & set(re.findall(r"\w{4,}", " ".join(document).lower())))

    nearest = sorted(DOCUMENTS.items(), key=distance)[:3]
    return [{"page_content": text, "metadata": {"doc_uri": uri}} for uri, text in nearest]


def prompt(message: str, history: list[Turn], documents: list[dict[str, Any]]) -> list[Turn]:
    """The model's messages."""
    facts = [document["page_content"] for document in documents]
    system = "\n".join(["Answer from these facts only:", *facts])
    return [
        {"role": "system", "content": system},
        *history,
        {"role": "user", "content": message},
    ]


async def complete(messages: list[Turn]) -> str:
    """Ask the model. Its span has the form of a chat completion, with the tokens used."""
    with spanferry.start_span(MODEL, span_type=SpanType.CHAT_MODEL) as span:
        span.set_inputs({"model": MODEL, "temperature": TEMPERATURE, "messages": messages})
        answer = await model.answer(messages)
        span.set_outputs({"choices": [{"message": {"role": "assistant", "content": answer}}]})
        span.set_attributes(
            {
                "mlflow.llm.model": MODEL,
                "mlflow.llm.provider": "birdhouse",
                "mlflow.chat.tokenUsage": tokens(messages, answer),
            }
        )
    return answer


def tokens(messages: list[Turn], answer: str) -> dict[str, int]:
    """About four characters a token."""
    sent = sum(len(message["content"]) for message in messages) // 4 + 1
    received = len(answer) // 4 + 1
    return {"input_tokens": sent, "output_tokens": received, "total_tokens": sent + received}
