"""The endpoint in a Flask app, for gunicorn's threads."""

import time

from flask import Flask, Response, request

from benchmarks.serve.account import Endpoint
from benchmarks.serve.work import MODEL_S, ChatReply, ChatRequest

__all__ = ["app"]

endpoint = Endpoint()
app = Flask(__name__)


@app.post("/chat")
def chat() -> Response:
    """Answer a question."""
    steps = endpoint.steps(ChatRequest.model_validate_json(request.get_data()))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            reply: ChatReply = done.value
            return Response(reply.model_dump_json(), mimetype="application/json")
        time.sleep(MODEL_S)


@app.get("/account")
def account() -> Response:
    """What the process has done so far."""
    return Response(endpoint.account(), mimetype="application/json")


@app.post("/flush")
def flush() -> Response:
    """Wait until everything has left."""
    return Response("true" if endpoint.flush() else "false", mimetype="application/json")
