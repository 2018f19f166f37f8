"""An ASGI app: GET /<name> makes a trace of that name, and answers with the process that made it."""

import asyncio
import os

import spanferry
from tests.processes.programs import timing

spanferry.enable()
timing.measure()


async def app(scope, receive, send):
    """What the server calls."""
    if scope["type"] != "http":
        assert scope["type"] == "lifespan"
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    with spanferry.start_span(scope["path"].strip("/")), spanferry.start_span("inside"):
        await asyncio.sleep(0.005)  # work, so that no worker takes all the requests
        body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
