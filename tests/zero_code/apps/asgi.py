"""An ASGI app that has never heard of spanferry's settings: GET /<name> makes a trace of that name.

TRACES_WITH names whose `start_span` it uses: mlflow's, or spanferry's.
"""

import asyncio
import importlib
import os

tracing = importlib.import_module(os.environ.get("TRACES_WITH", "mlflow"))


async def app(scope, receive, send):
    """What the server calls."""
    if scope["type"] != "http":
        assert scope["type"] == "lifespan"
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    with tracing.start_span(scope["path"].strip("/")), tracing.start_span("inside"):
        await asyncio.sleep(0.005)  # work, so that no worker takes all the requests
        body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
