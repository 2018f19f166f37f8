"""The load generator, a process of its own: `python -m benchmarks.serve.load`, an order and an answer a line.

One thread, keep-alive connections, select() because its timeout is exact to some 50 us where those of
poll and epoll are milliseconds.

closed: every connection sends its next request when it has its answer.
open: requests are due at a constant rate, whatever the app does; one that finds no free connection
waits, and its latency counts from when it was due (no coordinated omission).
"""

import os
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

__all__ = ["Answers", "Order", "take"]

_DRAIN_S = 5.0
_HEAD = (
    b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)


class Order(msgspec.Struct, kw_only=True):
    """One run of load."""

    port: int
    bodies: str
    """Path of a file with a JSON list of request bodies, used in turn."""
    seconds: float
    rate: float = 0.0
    """Requests a second; 0 is closed."""
    connections: int
    """Always so many where closed, at most so many where open."""


class Answers(msgspec.Struct, kw_only=True):
    """What came of it."""

    latency_us: list[int]
    """Of every request that was answered within the time; open: of all, where one that was never
    answered counts as long as it was waited for. wrk's are more than its requests: see `Load`."""
    elapsed_s: float
    """Open: until the last one was due."""
    requests: int = 0
    """Answered in time."""
    failed: int = 0
    """Answers other than 200, and connections that broke."""
    unanswered: int = 0
    late_us: list[int] = []
    """Open: how late requests were sent though a connection was free: the generator's own fault."""


class _Connection:
    """One request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._buffer = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._buffer = b""
        self.socket.sendall(request)

    def status(self) -> int | None:
        """Read; the status once the answer is whole, 0 where the connection broke."""
        try:
            data = self.socket.recv(65_536)
        except OSError:
            return 0
        if not data:
            return 0
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        return int(lines[0].split(b" ", 2)[1]) if len(body) >= length else None


class _Run:
    """The state of one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        bodies = msgspec.json.decode(Path(order.bodies).read_bytes(), type=list[str])
        self._requests = [_HEAD % (len(body.encode()), body.encode()) for body in bodies]
        self._sent = 0
        self._free: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self.answers = Answers(latency_us=[], elapsed_s=0.0)

    def closed(self) -> None:
        """Until the time is over; what is answered later is not counted."""
        start = time.perf_counter()
        end = start + self._order.seconds
        for _ in range(self._order.connections):
            self._send(_Connection(self._order.port), time.perf_counter())
        while (now := time.perf_counter()) < end:
            self._answered(end - now)
            while len(self._busy) < self._order.connections:
                free = self._free.pop() if self._free else _Connection(self._order.port)
                self._send(free, time.perf_counter())
        self.answers.elapsed_s = time.perf_counter() - start
        self.answers.requests = counted = len(self.answers.latency_us)
        self._drain(deque())
        del self.answers.latency_us[counted:]

    def open(self) -> None:
        """All that are due within the time, and what they take to be answered."""
        rate, start = self._order.rate, time.perf_counter()
        wanted, made, queue = round(rate * self._order.seconds), 0, deque[float]()
        while made < wanted:
            now = time.perf_counter()
            while made < wanted and start + made / rate <= now:
                queue.append(start + made / rate)
                made += 1
            self._send_due(queue)
            if made < wanted:
                self._answered(max(0.0, start + made / rate - time.perf_counter()))
        self.answers.elapsed_s = time.perf_counter() - start
        self.answers.requests = len(self.answers.latency_us)
        self._drain(queue)
        now = time.perf_counter()
        waiting = [*queue, *(one.due for one in self._busy)]
        self.answers.latency_us += [round((now - due) * 1e6) for due in waiting]
        self.answers.unanswered = len(waiting)

    def _send_due(self, queue: deque[float]) -> None:
        while queue and (self._free or len(self._busy) < self._order.connections):
            waited = len(queue) > 1
            connection = self._free.pop() if self._free else _Connection(self._order.port)
            due = queue.popleft()
            if not waited:
                self.answers.late_us.append(round((time.perf_counter() - due) * 1e6))
            self._send(connection, due)

    def _send(self, connection: _Connection, due: float) -> None:
        request = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        self._busy.add(connection)
        try:
            connection.send(request, due)
        except OSError:
            self._broken(connection)

    def _answered(self, timeout_s: float) -> None:
        """Wait, and read what is there."""
        if not self._busy:
            time.sleep(timeout_s)
            return
        readable, _, _ = select.select(list(self._busy), (), (), timeout_s)
        for connection in readable:
            status = connection.status()
            if status is None:
                continue
            if status == 0:
                self._broken(connection)
                continue
            took = time.perf_counter() - connection.due
            self.answers.latency_us.append(round(took * 1e6))
            self.answers.failed += status != 200
            self._busy.discard(connection)
            self._free.append(connection)

    def _broken(self, connection: _Connection) -> None:
        self.answers.failed += 1
        self._busy.discard(connection)
        connection.socket.close()

    def _drain(self, queue: deque[float]) -> None:
        """Have the rest sent and answered, as far as the time allows."""
        end = time.perf_counter() + _DRAIN_S
        while self._busy and (now := time.perf_counter()) < end:
            self._answered(end - now)
            self._send_due(queue)

    def close(self) -> None:
        """Close all connections."""
        for connection in [*self._busy, *self._free]:
            connection.socket.close()


def take(order: Order) -> Answers:
    """Run one order to its end."""
    run = _Run(order)
    try:
        run.open() if order.rate else run.closed()
    finally:
        run.close()
    return run.answers


def main() -> None:
    """Take orders until standard input ends."""
    decoder = msgspec.json.Decoder(Order)
    answers = os.fdopen(os.dup(1), "wb")
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(take(decoder.decode(line))) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
