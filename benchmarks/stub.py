"""A back end that answers at once: what MLflow's client and an OTLP/HTTP exporter need, and counts.

Run as `python -m benchmarks.stub`; prints its port and serves until its standard input closes. It
does the least that keeps the clients on their normal path, so it flatters them: a real MLflow
server answers each of these requests in milliseconds, and the client's threads wait for that.

    GET  /version                       the version of the installed MLflow
    *    /api/2.0/mlflow/experiments/*  one experiment
    POST /api/3.0/mlflow/traces         StartTraceV3: the trace info back, spans kept in the store
    POST /v1/traces, /otel/v1/traces, /api/public/otel/v1/traces
                                        OTLP protobuf of MLflow, OpenTelemetry and Langfuse; spans
                                        counted by walking the frame
    GET  /info, POST /runs/multipart    LangSmith, told that zstd is taken, as its own service does;
                                        runs counted by walking the parts
    POST /v1/chat/completions           a model's answer, after MODEL_S
    GET  /taken/<client>/<spans>        what arrived from mlflow, otel, langfuse or langsmith since
                                        the last such request, a trace of that many spans being whole
"""

import asyncio
import gzip
import importlib.metadata
import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import orjson
import uvloop

from benchmarks.serve.work import MODEL_S, completion_body

__all__ = ["Counts", "run_trace_ids", "span_trace_ids"]

_MODEL = "/v1/chat/completions"

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

_LANGSMITH_INFO = json.dumps(
    {
        "version": "0.0.0",
        "batch_ingest_config": {
            "use_multipart_endpoint": True,
            "scale_up_qsize_trigger": 1000,
            "scale_up_nthreads_limit": 16,
            "scale_down_nempty_trigger": 4,
            "size_limit": 100,
            "size_limit_bytes": 20_971_520,
        },
        "instance_flags": {"zstd_compression_enabled": True},
    }
).encode()


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


def run_trace_ids(body: bytes) -> Iterator[bytes]:
    """The trace id of every run in a LangSmith multipart request that brings the run's outputs.

    Every part tells its length; `post.<run>` or `patch.<run>` says which trace the run belongs to,
    and `post.<run>.outputs` follows it.
    """
    at, trace_id = 0, b""
    while (end := body.find(b"\r\n\r\n", at)) >= 0:
        head = body[at:end]
        name = _between(head, b'name="', b'"')
        size = int(_between(head + b"\r\n", b"Content-Length: ", b"\r\n"))
        at = end + 4 + size
        _, _, kind = name.partition(b".")[2].partition(b".")
        if not kind:
            trace_id = str(orjson.loads(body[end + 4 : at])["trace_id"]).encode()
        elif kind == b"outputs":
            yield trace_id


def _plain(body: bytes) -> bytes:
    """What was compressed: Langfuse by default uses gzip, LangSmith zstd."""
    if body.startswith(b"\x1f\x8b"):
        return gzip.decompress(body)
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard  # LangSmith needs it too

        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


def _between(text: bytes, before: bytes, after: bytes) -> bytes:
    return text.partition(before)[2].partition(after)[0]


class Counts:
    """Spans and traces that arrived from one client since they were last asked for."""

    def __init__(self) -> None:
        self.spans: Counter[bytes] = Counter()
        self.finalised = 0
        """Traces that a request of their own ended, as MLflow's do."""

    def take(self, spans_per_trace: int) -> dict[str, int]:
        """The counts; they begin anew."""
        complete = sum(1 for count in self.spans.values() if count >= spans_per_trace)
        taken = {"complete": complete, "traces": len(self.spans), "finalised": self.finalised}
        self.spans.clear()
        self.finalised = 0
        return taken


class Backend:
    """The answers, apart from the sockets."""

    def __init__(self) -> None:
        self._counts = {name: Counts() for name in ("mlflow", "otel", "langfuse", "langsmith")}
        self._spans = {
            "/v1/traces": (self._counts["mlflow"], span_trace_ids),
            "/otel/v1/traces": (self._counts["otel"], span_trace_ids),
            "/api/public/otel/v1/traces": (self._counts["langfuse"], span_trace_ids),
            "/runs/multipart": (self._counts["langsmith"], run_trace_ids),
        }
        self.completion = completion_body()
        self._version = importlib.metadata.version("mlflow").encode()

    def answer(self, path: str, body: bytes) -> tuple[str, str, bytes]:
        """Status, content type and body of the answer."""
        if path in self._spans:
            counts, trace_ids = self._spans[path]
            counts.spans.update(trace_ids(_plain(body)))
            return "200 OK", "application/x-protobuf", b""
        if path == "/version":
            return "200 OK", "text/plain", self._version
        if path == "/api/3.0/mlflow/traces":
            content = self._start_trace(body)
        elif path.startswith("/taken/"):
            client, _, spans = path.removeprefix("/taken/").partition("/")
            content = json.dumps(self._counts[client].take(int(spans))).encode()
        elif path == "/info":
            content = _LANGSMITH_INFO
        elif path.startswith("/api/2.0/mlflow/experiments/"):
            content = json.dumps(_EXPERIMENT).encode()
        else:
            print(f"the stub does not know {path}", file=sys.stderr)
            return "404 Not Found", "application/json", b"{}"
        return "200 OK", "application/json", content

    def _start_trace(self, body: bytes) -> bytes:
        request: dict[str, Any] = orjson.loads(body)
        self._counts["mlflow"].finalised += 1
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
        self._loop = asyncio.get_running_loop()

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
        if path == _MODEL:
            self._loop.call_later(
                MODEL_S, self._send, "200 OK", "application/json", self._backend.completion
            )
        else:
            self._send(*self._backend.answer(path, body))

    def _send(self, status: str, kind: str, content: bytes) -> None:
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
