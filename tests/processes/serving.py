"""Servers on a socket that the test has opened: requests may come before their workers do."""

import contextlib
import http.client
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.processes.program import Program, program

__all__ = ["Answers", "ask", "get", "listening", "served"]

CLIENTS = 4
REQUESTS = 60
REQUESTS_MAX = 3000
ANSWER_S = 120.0


@dataclass
class Answers:
    """Who has answered, and which traces that has made."""

    processes: set[int] = field(default_factory=set)
    traces: Counter[str] = field(default_factory=Counter)


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


def ask(port: int, label: str, *, processes: int = 1) -> Answers:
    """GET <label>-0, -1, …, a few at once, until so many processes have answered."""
    answers = Answers()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for first in range(0, REQUESTS_MAX, REQUESTS):
            names = [f"{label}-{first + number}" for number in range(REQUESTS)]
            answers.processes.update(clients.map(lambda name: int(get(port, name)), names))
            answers.traces.update(names)
            if len(answers.processes) >= processes:
                return answers
    raise AssertionError(f"only {answers.processes} have answered")


def get(port: int, name: str) -> str:
    """What the server answers to GET /<name>."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    with contextlib.closing(connection):
        connection.request("GET", f"/{name}")
        return connection.getresponse().read().decode()
