"""The endpoint in a FastAPI app, for uvicorn."""

import asyncio

from fastapi import FastAPI, Response

from benchmarks.serve.account import Endpoint
from benchmarks.serve.work import MODEL_S, ChatReply, ChatRequest

__all__ = ["app"]

endpoint = Endpoint()
app = FastAPI()


@app.post("/chat")
async def chat(request: ChatRequest) -> ChatReply:
    """Answer a question."""
    steps = endpoint.steps(request)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            reply: ChatReply = done.value
            return reply
        await asyncio.sleep(MODEL_S)


@app.get("/account")
async def account() -> Response:
    """What the process has done so far."""
    return Response(endpoint.account(), media_type="application/json")


@app.post("/flush")
async def flush() -> bool:
    """Wait until everything has left."""
    return await asyncio.to_thread(endpoint.flush)
