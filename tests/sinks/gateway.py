"""A gateway before a tracking server: it keeps what comes, and does what gateways do on bad days."""

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Answer", "Gateway", "Seen", "gateway"]


class Seen(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What the gateway says by itself."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""


Rule = Callable[[Seen], Answer | str | None]
"""An answer; "cut": the connection ends instead of the answer that the server has given; "drop": it ends
before the server is asked; None: the server's answer."""


class Gateway:
    """Its address, what has come, and the rule for what comes."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target).netloc
        self.uri = ""
        self.seen: list[Seen] = []
        self.rule: Rule = lambda _: None
        self.under_way = 0
        self.most_under_way = 0
        self.connections = 0
        self.lock = threading.Lock()

    def paths(self, word: str = "") -> list[str]:
        """Of the requests so far, those with the word in their path."""
        return [one.path for one in self.seen if word in one.path]

    def times(self, number: int, path: str, does: Answer | str) -> None:
        """The next `number` requests whose path ends so; then as usual."""
        left = [number]

        def rule(seen: Seen) -> Answer | str | None:
            with self.lock:
                if seen.path.partition("?")[0].endswith(path) and left[0]:
                    left[0] -= 1
                    return does
            return None

        self.rule = rule

    def forward(self, seen: Seen) -> Answer:
        """The server's answer."""
        connection = http.client.HTTPConnection(self._target, timeout=60)
        try:
            connection.request(seen.method, seen.path, body=seen.body or None, headers=seen.headers)
            response = connection.getresponse()
            headers = {"Content-Type": response.headers.get("Content-Type", "")}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: Gateway

    def setup(self) -> None:
        super().setup()
        with self.of.lock:
            self.of.connections += 1

    def do_GET(self) -> None:
        gateway = self.of
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(self.command, self.path, dict(self.headers.items()), body)
        with gateway.lock:
            gateway.seen.append(seen)
            gateway.under_way += 1
            gateway.most_under_way = max(gateway.most_under_way, gateway.under_way)
        try:
            self.answer(seen)
        finally:
            with gateway.lock:
                gateway.under_way -= 1

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base's names

    def answer(self, seen: Seen) -> None:
        does = self.of.rule(seen)
        if does != "drop" and not isinstance(does, Answer):
            given: Any = self.of.forward(seen)
        else:
            given = does
        if isinstance(does, str):
            self.close_connection = True
            return
        self.send_response(given.status)
        for name, value in {**given.headers, "Content-Length": str(len(given.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(given.body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def gateway(target: str = "", tls: Any = None) -> Iterator[Gateway]:
    """On a free port of 127.0.0.1; `tls` is an ssl.SSLContext."""
    one = Gateway(target)
    handler = type("Handler", (_Handler,), {"of": one})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # it is cut by tests
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    scheme = "http" if tls is None else "https"
    one.uri = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
