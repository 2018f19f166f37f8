"""A WSGI app: GET /<name> makes a trace of that name, and answers with the process that made it.

TRACE_FIRST=true makes one while it is imported, before a server that has preloaded it forks.
"""

import os
import time

import spanferry
from tests.processes.programs import timing

spanferry.enable()
timing.measure()

if os.environ.get("TRACE_FIRST"):
    with spanferry.start_span("first-0"):
        pass


def app(request, start_response):
    """What the server calls."""
    with spanferry.start_span(request["PATH_INFO"].strip("/")), spanferry.start_span("inside"):
        time.sleep(0.005)  # work, so that no worker takes all the requests
        body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Connection", "close")])
    return [body]
