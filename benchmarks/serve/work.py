"""What the served endpoint does for one request, the same whoever traces it.

A question to a retrieval agent: the request is validated, candidates come from a store (here: bytes
that are parsed and validated as an answer of one would be), are ranked by the words they share with the
question, rows come from a table, a prompt is made, the model is waited for (MODEL_S; some apps call it
over HTTP meanwhile), its answer is parsed and validated, and the reply is made. What a span carries is
what the app itself has in its hands at that point, new for every request: no value is made for
tracing's sake.
"""

import json
import re
from collections.abc import Generator
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from benchmarks.payloads import TracePayload, make_payload
from benchmarks.recorders import StartSpan

__all__ = [
    "MODEL_S",
    "WORLDS",
    "ChatReply",
    "ChatRequest",
    "Steps",
    "answering",
    "completion_body",
    "request_body",
]

MODEL_S = 0.02
"""How long the model takes."""
WORLDS = 64
"""Different stores: questions and what is found differ from request to request."""
_TRACE_BYTES = 10_000
_CANDIDATES = 20
_WORD = re.compile(r"\w{3,}")


class Message(BaseModel):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(BaseModel):
    """What a client asks."""

    messages: list[Message]
    session: str
    world: int
    temperature: float = 0.2


class Metadata(BaseModel):
    """Where a document is from."""

    source: str
    chunk: int
    score: float


class Document(BaseModel):
    """What a store answers with."""

    id: str
    page_content: str
    metadata: Metadata


class Choice(BaseModel):
    """One answer of the model."""

    index: int
    finish_reason: str
    message: dict[str, str | None]


class Completion(BaseModel):
    """What the model answers with."""

    id: str
    choices: list[Choice]
    usage: dict[str, int]


class ChatReply(BaseModel):
    """What the client gets."""

    answer: str
    sources: list[Metadata]
    rows: int
    usage: dict[str, int]


Steps = Generator[dict[str, Any], bytes | None, ChatReply]
"""The endpoint's work; it yields what the model is asked, and takes its answer if there is one."""
_documents = TypeAdapter(list[Document])


class _World:
    """What store, table and model answer, as the bytes that would come over the network."""

    def __init__(self, seed: int) -> None:
        payload = _payload(seed)
        others = [
            document for other in range(1, 10) for document in _payload(seed + other).retriever[1]
        ]
        found = [*payload.retriever[1], *others][:_CANDIDATES]
        self.question: str = payload.agent[0]["messages"][0]["content"]
        self.kept = len(payload.retriever[1])
        self.candidates = json.dumps(found).encode()
        self.rows = json.dumps(payload.tool[1]).encode()
        self.system: str = payload.chat_model[0]["messages"][0]["content"]
        self.completion = json.dumps(payload.chat_model[1]).encode()


def _payload(seed: int) -> TracePayload:
    return make_payload("chat", _TRACE_BYTES, seed)


def request_body(world: int) -> bytes:
    """What a client sends."""
    question = _payload(world).agent[0]["messages"][0]["content"]
    messages = [
        {"role": "user", "content": "And before that?"},
        {"role": "assistant", "content": question[::-1]},
        {"role": "user", "content": question},
    ]
    return json.dumps({"messages": messages, "session": f"s-{world}", "world": world}).encode()


def completion_body() -> bytes:
    """What a model answers over HTTP."""
    return json.dumps(_payload(0).chat_model[1]).encode()


def answering(start_span: StartSpan) -> Any:
    """The endpoint's work, traced with `start_span`: takes a ChatRequest, gives Steps."""
    worlds = [_World(seed) for seed in range(WORLDS)]

    def steps(request: ChatRequest) -> Steps:
        world = worlds[request.world % WORLDS]
        messages = [message.model_dump() for message in request.messages]
        with start_span("answer", span_type="AGENT") as agent:
            agent.set_inputs({"messages": messages, "session": request.session})
            question = request.messages[-1].content
            with start_span("retrieve", span_type="RETRIEVER") as retriever:
                retriever.set_inputs({"query": question, "k": world.kept})
                documents = _nearest(question, world)
                found = [document.model_dump() for document in documents]
                retriever.set_outputs(found)
            with start_span("look_up", span_type="TOOL") as tool:
                tool.set_inputs({"sql": "SELECT id, name, score FROM items", "limit": 50})
                rows = json.loads(world.rows)
                tool.set_outputs(rows)
            with start_span("compose", span_type="CHAIN") as chain:
                chain.set_inputs({"question": question, "sources": len(documents)})
                prompt = _prompt(world.system, messages, documents)
                with start_span("model", span_type="CHAT_MODEL") as model:
                    asked = {
                        "model": "small-1",
                        "temperature": request.temperature,
                        "messages": prompt,
                    }
                    model.set_inputs(asked)
                    answer = yield asked
                    completion = Completion.model_validate_json(answer or world.completion)
                    model.set_outputs(completion.model_dump())
                text = completion.choices[0].message["content"] or ""
                chain.set_outputs({"answer": text, "confidence": 0.87})
            reply = ChatReply(
                answer=text,
                sources=[document.metadata for document in documents],
                rows=len(rows),
                usage=completion.usage,
            )
            agent.set_outputs({"answer": text, "sources": [one.source for one in reply.sources]})
        return reply

    return steps


def _nearest(question: str, world: _World) -> list[Document]:
    """The candidates that share most words with the question."""
    candidates = _documents.validate_json(world.candidates)
    wanted = set(_WORD.findall(question.lower()))

    def distance(document: Document) -> float:
        words = _WORD.findall(document.page_content.lower())
        return -sum(word in wanted for word in words) / (len(words) + 1)

    return sorted(candidates, key=distance)[: world.kept]


def _prompt(system: str, messages: list[dict[str, Any]], documents: list[Document]) -> list[Any]:
    facts = "\n\n".join(document.page_content for document in documents)
    return [{"role": "system", "content": f"{system}\n\n{facts}"}, *messages]
