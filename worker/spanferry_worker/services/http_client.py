"""One pooled HTTP client for a tracking server: many requests under way, on a loop in a thread of its own.

The callers are threads that wait. What a short wait may mend (a connection that broke, 429, 503) is
tried again here, so that one refused request of a hundred does not have the other ninety-nine sent
twice; what takes longer is a TransientError, and the writer's backoff goes on from there.
"""

import asyncio
import concurrent.futures
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import httpx
import requests

from spanferry_worker.errors import TransientError, WorkerError
from spanferry_worker.services.http_connections import CONNECT_S, Connections
from spanferry_worker.services.mlflow_access import Access, Call
from spanferry_worker.stages.requests import RequestPace, RequestPolicy, retry_after_s
from spanferry_worker.text import without_userinfo

__all__ = ["HttpClient", "Reply", "TimedOutError"]

_T = TypeVar("_T")

WAIT_MAX_S: Final = 5.0
"""What a server may ask for (`Retry-After`) that is waited for here."""
BACKOFF_S: Final = 0.25
"""Before the second try; doubles."""
CLOSE_S: Final = 5.0

_AGAIN: Final = frozenset({429, 502, 503, 504})
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_DROPPED: Final = frozenset({"accept-encoding", "connection", "host"})
"""Headers that are the transport's own business."""


class TimedOutError(TransientError):
    """The server has not answered in time; it may be at work on the request still."""


class Reply(NamedTuple):
    """An answer of any status."""

    status: int
    content: bytes
    content_type: str = ""
    retry_after_s: float | None = None
    """How long the server wants to be left alone, at most as long as the policy lets it."""

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


class HttpClient:
    """Of one server. Threads call it; nothing runs before the first call, and nothing after `close`."""

    def __init__(self, access: Access, policy: RequestPolicy, *, timeout_s: float) -> None:
        """Raises FatalError for certificates that cannot be used."""
        self.access = access
        self._timeout_s = timeout_s
        self._wait_max_s = policy.retry_after_max_s
        self._pace = RequestPace(policy.requests_per_s, closed_max_s=policy.retry_after_max_s)
        self._chance = random.Random()  # noqa: S311 - spreads retries
        self._places = asyncio.Semaphore(policy.requests_at_once_max)
        self._connections = Connections(access, policy, timeout_s)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, call: Call) -> Reply:
        """One request, and the answer, whatever its status. Raises TransientError where there is none."""
        prepared = self._prepared(call)
        return self._run(lambda: self._ask(call, prepared))

    def ask_all(self, calls: Sequence[Call]) -> list[Reply | TransientError]:
        """Many at once, as many as the policy lets; an answer, or why there is none, for each."""
        lot = [(call, self._prepared(call)) for call in calls]
        return self._run(lambda: self._ask_all(lot))

    def close(self) -> None:
        """Break off what is under way, which raises TransientError where it is waited for."""
        with self._lock:
            if self._closed or self._loop is None or self._thread is None:
                self._closed = True
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)

    def _run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        with self._lock:  # so that nothing is given to a loop after it was told to stop
            if self._closed:
                raise TransientError(f"the client of {self.access.shown} is closed")
            future = asyncio.run_coroutine_threadsafe(work(), self._running())
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise TransientError(f"the client of {self.access.shown} was closed") from error

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._serve, args=(self._loop,), name="mlflow-http", daemon=True
            )
            self._thread.start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            rest = asyncio.all_tasks(loop)
            for task in rest:
                task.cancel()
            if rest:
                loop.run_until_complete(asyncio.wait(rest))
            loop.run_until_complete(self._connections.aclose())
            loop.close()

    async def _ask_all(
        self, lot: Sequence[tuple[Call, requests.PreparedRequest]]
    ) -> list[Reply | TransientError]:
        away: list[TransientError] = []

        async def one(call: Call, prepared: requests.PreparedRequest) -> Reply | TransientError:
            try:
                reply = await self._ask(call, prepared, away)
            except TransientError as error:
                away.append(error)
                return error
            if reply.status in _AGAIN:
                text = f"{self.access.shown} answers {reply.status}"
                away.append(TransientError(text, retry_after_s=reply.retry_after_s))
            return reply

        return await asyncio.gather(*(one(call, prepared) for call, prepared in lot))

    async def _ask(
        self,
        call: Call,
        prepared: requests.PreparedRequest,
        away: Sequence[TransientError] = (),
    ) -> Reply:
        """`away`: why others of the same lot were given up; nothing more is sent once there is one."""
        async with self._places:  # kept between two tries: an ill server is asked by fewer
            for number in range(1, call.tries + 1):
                if away:
                    raise away[0]
                await self._turn()
                wait_s = BACKOFF_S * 2 ** (number - 1) * (0.5 + 0.5 * self._chance.random())
                last = number == call.tries
                try:
                    reply = await self._send(call, prepared)
                except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                    await self._connections.look()  # it may be a certificate that has ended
                    if last or not _may_repeat(call, error):
                        raise self._unanswered(error) from error
                else:
                    wait_s = wait_s if reply.retry_after_s is None else reply.retry_after_s
                    if last or wait_s > WAIT_MAX_S or not _asks_for_another(call, reply, number):
                        return reply
                await asyncio.sleep(wait_s)
        raise AssertionError("a call has at least one try")

    async def _turn(self) -> None:
        """Wait until the pace lets a request go."""
        await asyncio.sleep(self._pace.take(time.monotonic()))
        while closed_s := self._pace.closed_s(time.monotonic()):
            if closed_s > WAIT_MAX_S:
                raise TransientError(
                    f"{self.access.shown} wants to be left alone for {closed_s:.0f} s more",
                    retry_after_s=closed_s,
                )
            await asyncio.sleep(closed_s)

    async def _send(self, call: Call, prepared: requests.PreparedRequest) -> Reply:
        timeout_s = call.timeout_s or self._timeout_s
        if _answers_back(prepared):
            response = await asyncio.to_thread(self.access.send_by_requests, prepared, timeout_s)
            reply = self._reply(response.status_code, response.content, response.headers)
        else:
            headers = {
                name: value if isinstance(value, str) else value.decode("latin-1")
                for name, value in prepared.headers.items()
                if name.lower() not in _DROPPED
            }
            body: Any = prepared.body
            async with self._connections.client() as client:
                answer = await client.request(
                    call.method,
                    without_userinfo(prepared.url or ""),
                    headers=headers,
                    content=body,
                    timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
                )
            reply = self._reply(answer.status_code, answer.content, answer.headers)
        if reply.retry_after_s is not None and reply.status in {429, 503}:
            self._pace.close(time.monotonic(), reply.retry_after_s)
        return reply

    def _reply(self, status: int, content: bytes, headers: Any) -> Reply:
        wait_s = retry_after_s(headers.get("Retry-After"), time.time_ns() / 1e9)
        if wait_s is not None:
            wait_s = min(wait_s, self._wait_max_s)
        return Reply(status, content, headers.get("Content-Type", ""), wait_s)

    def _prepared(self, call: Call) -> requests.PreparedRequest:
        """Made in the thread that asks: credentials may lie in files, or behind a plug-in."""
        try:
            return self.access.prepare(call)
        except WorkerError:
            raise
        except Exception as error:
            what = self.access.masked(f"{type(error).__name__}: {error}")
            raise TransientError(
                f"no request to {self.access.shown} can be made: {what}"
            ) from error

    def _unanswered(self, error: Exception) -> TransientError:
        what = f"{type(error).__name__}: {error}".rstrip(": ")  # it names the host and no header
        message = f"no answer from {self.access.shown} ({what})"
        if isinstance(error, (httpx.TimeoutException, requests.Timeout)) and not isinstance(
            error, _UNSENT
        ):
            return TimedOutError(message)
        return TransientError(message)


def _answers_back(prepared: requests.PreparedRequest) -> bool:
    """Whether a plug-in wants to see the answer, and to send again."""
    hooks: dict[str, list[Any]] = prepared.hooks
    return bool(hooks.get("response"))


def _may_repeat(call: Call, error: Exception) -> bool:
    """Whether a request without an answer may be sent again now."""
    if isinstance(error, _UNSENT):
        return True
    slow = isinstance(error, (httpx.TimeoutException, requests.Timeout))
    return call.repeatable and not slow and isinstance(error, (httpx.TransportError, OSError))


def _asks_for_another(call: Call, reply: Reply, number: int) -> bool:
    """Whether an answer is one that may be another in a moment. 500 is asked for twice only: as a rule
    it is the request that the server cannot digest."""
    if reply.status == 429:
        return True
    if reply.status == 500:
        return call.repeatable and number == 1
    return call.repeatable and reply.status in _AGAIN
