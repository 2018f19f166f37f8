"""Two services: a client whose traces go on in a server, over HTTP, by MLflow's headers."""

import http.client
import http.server
import json
import subprocess
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


def serve() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
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
    options = begin()
    if options.get("serves"):
        serve()
        return
    command = [sys.executable, "-m", "tests.better_than_native.programs.remote"]
    server = subprocess.Popen(
        [*command, json.dumps(options | {"serves": True})], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        call(int(server.stdout.readline()))
    finally:
        server.kill()
        server.wait()
    leave()


if __name__ == "__main__":
    main()
