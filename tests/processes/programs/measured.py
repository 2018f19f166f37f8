"""As wsgi.py, with /metrics that adds up what all of gunicorn's processes have counted."""

import os
import time

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

import spanferry
from spanferry import metrics

spanferry.enable()
metrics.mirror_to_prometheus(interval_s=0.2)


def app(request, start_response):
    """What the server calls."""
    if request["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        body = generate_latest(registry)
    else:
        with spanferry.start_span(request["PATH_INFO"].strip("/")):
            time.sleep(0.005)  # work, so that no worker takes all the requests
            body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Connection", "close")])
    return [body]
