"""Two services: a client whose traces go on in a server, over HTTP, by MLflow's headers."""

import http.client
import http.server
import json
import os
import signal
import sys

import mlflow
from mlflow.tracing import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)

from tests.better_than_native.programs.shipping import answer, begin, bounded, leave

REQUESTS = 10
FLUSH_S = json.loads(sys.argv[1])["flush_s"]


class Handler(http.server.BaseHTTPRequestHandler):
    """/chat is traced below its caller; /flush flushes."""

    def do_GET(self) -> None:
        if self.path == "/flush":
            bounded(mlflow.flush_trace_async_logging, FLUSH_S)
        else:
            with (
                set_tracing_context_from_http_request_headers(dict(self.headers)),
                mlflow.start_span("remote", span_type="AGENT") as remote,
            ):
                remote.set_inputs({"path": self.path})
                with mlflow.start_span("remote model", span_type="LLM"):
                    pass
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve(said: int) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        os.write(said, b"%d\n" % server.server_address[1])
        server.serve_forever()


def get(port: int, path: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=FLUSH_S + 20)
    connection.request("GET", path, headers=headers)
    assert connection.getresponse().status == 204
    connection.close()


def call(port: int) -> None:
    for number in range(REQUESTS):
        with mlflow.start_span("client", span_type="CHAIN"):
            mlflow.update_current_trace(tags={"number": str(number)})
            get(port, "/chat", get_tracing_context_headers_for_http_request())
    get(port, "/flush", {})
    answer(flushed=bounded(mlflow.flush_trace_async_logging, FLUSH_S))


def main() -> None:
    """The service is forked before anything is set up, so that it is a process as any other."""
    read_end, write_end = os.pipe()
    server = os.fork()
    if server == 0:
        begin()
        serve(write_end)
        return
    os.close(write_end)
    try:
        begin()
        with os.fdopen(read_end) as said:
            call(int(said.readline()))
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    leave()


if __name__ == "__main__":
    main()
