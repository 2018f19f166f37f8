"""The endpoint in a FastAPI app, for uvicorn."""

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI, Response

from benchmarks.serve.account import Endpoint
from benchmarks.serve.work import MODEL_S, ChatReply, ChatRequest

__all__ = ["app"]

endpoint = Endpoint()
app = FastAPI()
model = httpx.AsyncClient(base_url=endpoint.model_url) if endpoint.model_url else None


@app.post("/chat")
async def chat(request: ChatRequest) -> ChatReply:
    """Answer a question."""
    steps = endpoint.steps(request)
    answer: bytes | None = None
    while True:
        try:
            asked = steps.send(answer)
        except StopIteration as done:
            reply: ChatReply = done.value
            return reply
        answer = await _ask(asked)


async def _ask(asked: dict[str, Any]) -> bytes | None:
    """Wait for the model, or call it."""
    if model is None:
        await asyncio.sleep(MODEL_S)
        return None
    answered = await model.post("/v1/chat/completions", json=asked)
    return answered.content


@app.get("/account")
async def account() -> Response:
    """What the process has done so far."""
    return Response(endpoint.account(), media_type="application/json")


@app.post("/flush")
async def flush() -> bool:
    """Wait until everything has left."""
    return await asyncio.to_thread(endpoint.flush)
