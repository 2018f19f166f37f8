"""/healthz, /readyz and /metrics over plain HTTP, without a web framework."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import orjson

__all__ = ["Answer", "HealthServer", "Page", "fetch", "json_answer"]

_READ_S: Final = 5.0
_PHRASES: Final = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Answer(NamedTuple):
    """What a page says."""

    status: int
    content_type: str
    body: bytes


def json_answer(ok: bool, **content: object) -> Answer:
    """200 or 503 with a JSON object."""
    return Answer(200 if ok else 503, "application/json", orjson.dumps({"ok": ok, **content}))


Page = Callable[[], Awaitable[Answer]]


class HealthServer:
    """Serves a fixed set of pages; one request a connection."""

    def __init__(self, pages: Mapping[str, Page], *, host: str, port: int) -> None:
        self._pages = pages
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        """Listen; returns the port. Raises OSError where it is taken."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError, ValueError):
            async with asyncio.timeout(_READ_S):
                request = await reader.readline()
                while (await reader.readline()).strip():
                    pass
                answer = await self._answer(request)
                head = (
                    f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\n"
                    f"Content-Type: {answer.content_type}\r\n"
                    f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode() + (b"" if request.startswith(b"HEAD ") else answer.body))
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, request: bytes) -> Answer:
        words = request.decode("latin-1").split()
        if len(words) < 2 or words[0] not in {"GET", "HEAD"}:
            return Answer(405, "text/plain", b"GET only\n")
        page = self._pages.get(words[1].partition("?")[0])
        if page is None:
            return Answer(404, "text/plain", b"/healthz /readyz /metrics\n")
        return await page()


async def fetch(host: str, port: int, path: str) -> Answer | None:
    """A page of another process's HealthServer; None where it does not answer."""
    try:
        async with asyncio.timeout(_READ_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        status = int(head.split(b" ", 2)[1])
    except (OSError, TimeoutError, ValueError, IndexError):
        return None
    return Answer(status, "", body)
