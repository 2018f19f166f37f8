"""An app whose trace is open when it ends, made by MLflow's API. `python -m ...open_trace ENDING`

ENDING: exit, wait, uvicorn (a server's shutdown in the middle: the process, and its trace, go on).
"""

import asyncio
import os
import signal
import sys

import mlflow

import spanferry


def begin():
    """A root that is open, and a step of it that has ended."""
    root = mlflow.start_span_no_context("root")
    step = mlflow.start_span_no_context("step", parent_span=root)
    step.end()
    return root


def serve():
    """Until a SIGTERM, which only ends the server."""
    import uvicorn

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        spanferry.enable()
        app.root = begin()
        await send({"type": "lifespan.startup.complete"})
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning")).run()
    return app.root


def main(ending):
    """One program's life."""
    if ending == "uvicorn":
        root = serve()
        print("served", spanferry.stats().parcels_sent, flush=True)
        later = mlflow.start_span_no_context("later", parent_span=root)
        later.end()
        root.end()
        return
    spanferry.enable()
    root = begin()
    print("traced", flush=True)
    if ending == "wait":
        sys.stdin.readline()
    del root


if __name__ == "__main__":
    main(sys.argv[1])
