"""A back end that answers at once: what MLflow's client and an OTLP/HTTP exporter need, and counts.

Run as `python -m benchmarks.stub`; prints its port and serves until its standard input closes. It
does the least that keeps the clients on their normal path, so it flatters them: a real MLflow
server answers each of these requests in milliseconds, and the client's threads wait for that.

    GET  /version                       the version of the installed MLflow
    *    /api/2.0/mlflow/experiments/*  one experiment
    POST /api/3.0/mlflow/traces         StartTraceV3: the trace info back, spans kept in the store
    POST /v1/traces, /otel/v1/traces    OTLP protobuf; spans and traces counted by walking the frame
    GET  /counts                        {"mlflow": {...}, "otel": {...}} since the start
"""

import asyncio
import importlib.metadata
import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import orjson
import uvloop

__all__ = ["SPANS_PER_TRACE", "Counts", "span_trace_ids"]

SPANS_PER_TRACE = 5

_EXPERIMENT = {
    "experiment": {
        "experiment_id": "1",
        "name": "bench",
        "artifact_location": "mlflow-artifacts:/1",
        "lifecycle_stage": "active",
        "creation_time": 1,
        "last_update_time": 1,
    }
}


def span_trace_ids(body: bytes) -> Iterator[bytes]:
    """The trace id of every span in an ExportTraceServiceRequest.

    Walks ResourceSpans (1) > ScopeSpans (2) > Span (2) > trace_id (1) by lengths alone, so that a
    100 MB request costs microseconds a span and the stub's core stays free.
    """
    view = memoryview(body)
    for resource_spans in _fields(view, 1):
        for scope_spans in _fields(resource_spans, 2):
            for span in _fields(scope_spans, 2):
                yield bytes(next(_fields(span, 1)))


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            size, at = _varint(message, at)
            if tag >> 3 == wanted:
                yield message[at : at + size]
            at += size
        elif kind == 5:
            at += 4
        else:
            raise ValueError(f"wire type {kind} in an OTLP request")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


class Counts:
    """Spans and traces that arrived from one client; `complete` counts traces with every span."""

    def __init__(self) -> None:
        self.spans: Counter[bytes] = Counter()
        self.finalised = 0
        self.requests = 0
        self.bytes = 0

    def summary(self) -> dict[str, int]:
        complete = sum(1 for count in self.spans.values() if count >= SPANS_PER_TRACE)
        return {
            "complete": complete,
            "traces": len(self.spans),
            "spans": self.spans.total(),
            "finalised": self.finalised,
            "requests": self.requests,
            "bytes": self.bytes,
        }


class Backend:
    """The answers, apart from the sockets."""

    def __init__(self) -> None:
        self.mlflow, self.otel = Counts(), Counts()
        self._otlp = {"/v1/traces": self.mlflow, "/otel/v1/traces": self.otel}
        self._version = importlib.metadata.version("mlflow").encode()

    def answer(self, path: str, body: bytes) -> tuple[str, str, bytes]:
        """Status, content type and body of the answer."""
        otlp = self._otlp.get(path)
        if otlp is not None:
            self._spans(otlp, body)
            return "200 OK", "application/x-protobuf", b""
        if path == "/version":
            return "200 OK", "text/plain", self._version
        if path == "/api/3.0/mlflow/traces":
            content = self._start_trace(body)
        elif path == "/counts":
            counts = {"mlflow": self.mlflow.summary(), "otel": self.otel.summary()}
            content = json.dumps(counts).encode()
        elif path.startswith("/api/2.0/mlflow/experiments/"):
            content = json.dumps(_EXPERIMENT).encode()
        else:
            print(f"the stub does not know {path}", file=sys.stderr)
            return "404 Not Found", "application/json", b"{}"
        return "200 OK", "application/json", content

    def _spans(self, counts: Counts, body: bytes) -> None:
        counts.requests += 1
        counts.bytes += len(body)
        counts.spans.update(span_trace_ids(body))

    def _start_trace(self, body: bytes) -> bytes:
        request: dict[str, Any] = orjson.loads(body)
        self.mlflow.requests += 1
        self.mlflow.finalised += 1
        info = request["trace"]["trace_info"]
        info.setdefault("tags", {})["mlflow.trace.spansLocation"] = "TRACKING_STORE"
        return orjson.dumps(request)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and Content-Length, which is what both clients speak."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._buffer = bytearray()
        self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._need:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            length = next(
                (int(line[15:]) for line in head[1:] if line.lower().startswith("content-length:")),
                0,
            )
            self._need = end + 4 + length
            if len(self._buffer) < self._need:
                return
            body = bytes(memoryview(self._buffer)[end + 4 : self._need])
            del self._buffer[: self._need]
            self._need = 0
            self._respond(head[0].split(" ")[1].partition("?")[0], body)

    def _respond(self, path: str, body: bytes) -> None:
        status, kind, content = self._backend.answer(path, body)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._transport.write(head.encode() + content)


async def serve() -> None:
    """Serve on a free port of 127.0.0.1 until standard input ends."""
    backend = Backend()
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(lambda: _Connection(backend), sock=listening)
    print(listening.getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
