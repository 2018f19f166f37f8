"""Servers on a socket that the test has opened: requests may come before their workers do."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.processes.program import Program, program

__all__ = ["ask", "listening", "served"]

CLIENTS = 4
ANSWER_S = 40.0


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket of 127.0.0.1 for a server to inherit."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as opened:
        yield opened


@contextlib.contextmanager
def served(words: list[str], environment: dict[str, str]) -> Iterator[tuple[Program, int]]:
    """A server and its port; `FD` in its words stands for the socket that it is to serve."""
    with listening() as opened:
        fd = opened.fileno()
        told = [word.replace("FD", str(fd)) for word in words]
        with program(*told, fds=(fd,), environment=environment) as server:
            yield server, opened.getsockname()[1]


def ask(port: int, names: list[str]) -> set[int]:
    """GET each of them, a few at once; the processes that have answered."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        return set(clients.map(lambda name: _get(port, name), names))


def _get(port: int, name: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    with contextlib.closing(connection):
        connection.request("GET", f"/{name}")
        return int(connection.getresponse().read())
