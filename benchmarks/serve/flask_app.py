"""The endpoint in a Flask app, for gunicorn's threads."""

import time
from typing import Any

import httpx
from flask import Flask, Response, request

from benchmarks.serve.account import Endpoint
from benchmarks.serve.work import MODEL_S, ChatReply, ChatRequest

__all__ = ["app"]

endpoint = Endpoint()
app = Flask(__name__)
model = httpx.Client(base_url=endpoint.model_url) if endpoint.model_url else None


@app.post("/chat")
def chat() -> Response:
    """Answer a question."""
    steps = endpoint.steps(ChatRequest.model_validate_json(request.get_data()))
    answer: bytes | None = None
    while True:
        try:
            asked = steps.send(answer)
        except StopIteration as done:
            reply: ChatReply = done.value
            return Response(reply.model_dump_json(), mimetype="application/json")
        answer = _ask(asked)


def _ask(asked: dict[str, Any]) -> bytes | None:
    """Wait for the model, or call it."""
    if model is None:
        time.sleep(MODEL_S)
        return None
    return model.post("/v1/chat/completions", json=asked).content


@app.get("/account")
def account() -> Response:
    """What the process has done so far."""
    return Response(endpoint.account(), mimetype="application/json")


@app.post("/flush")
def flush() -> Response:
    """Wait until everything has left."""
    return Response("true" if endpoint.flush() else "false", mimetype="application/json")
