"""A tracking server that only counts who asks it, and answers nothing useful or nothing at all."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stub", "stub_server"]

NEVER_S = 60


class Stub:
    """Its address, and the requests that came."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.requests: list[str] = []
        self.over = threading.Event()
        self.uri = ""


@contextmanager
def stub_server(*, hangs: bool) -> Iterator[Stub]:
    """On a free port of 127.0.0.1. With `hangs` a request is never answered, else by 404."""
    stub = Stub(hangs=hangs)

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65_537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            stub.requests.append(f"{self.command} {self.path}")
            self.close_connection = True
            if stub.hangs:
                stub.over.wait(NEVER_S)
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub.uri = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield stub
        finally:
            stub.over.set()
            server.shutdown()
            thread.join()
