"""chat_service with a stop watch on every tracing call: the app that `spanferry demo` runs.

It adds one page, /demo/requests: for each request by its X-Request-ID, how many spans it started and
how many nanoseconds of its time went into tracing. The stop watch stands between spanferry and the
service, which does not know of it.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import aclosing
from contextvars import ContextVar
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Final

import spanferry
import spanferry.asgi
from spanferry.asgi import TraceMiddleware

Scope = MutableMapping[str, Any]
Call = Callable[..., Awaitable[Any]]
Stream = Callable[..., AsyncGenerator[Any, None]]


class Meter:
    """One request's account."""

    def __init__(self) -> None:
        self.spans = 0
        self.ns = 0


_outside_of_requests: Final = Meter()
_meter: Final[ContextVar[Meter]] = ContextVar("meter", default=_outside_of_requests)
_requests: Final[dict[str, Meter]] = {}


class Timed:
    """Counts the time inside the block as tracing; as a `refund` takes it off again."""

    def __init__(self, *, refund: bool = False) -> None:
        self._sign = -1 if refund else 1

    def __enter__(self) -> Meter:
        self._meter = _meter.get()
        self._started = perf_counter_ns()
        return self._meter

    def __exit__(self, *_: object) -> None:
        self._meter.ns += self._sign * (perf_counter_ns() - self._started)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its time counted as tracing."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with Timed():
            return function(*args, **kwargs)

    return wrapper


class TimedSpan:
    """A span whose methods are timed."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def __getattr__(self, name: str) -> Any:
        return timed(getattr(self._span, name))


class timed_start_span:  # noqa: N801  as the original
    """spanferry.start_span, timed when it is called, entered and left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with Timed():
            self._block = _start_span(*args, **kwargs)

    def __enter__(self) -> Any:
        with Timed() as meter:
            meter.spans += 1
            return TimedSpan(self._block.__enter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        with Timed():
            self._block.__exit__(kind, error, stack)


def timed_trace(**options: Any) -> Callable[[Any], Any]:
    """spanferry.trace, timed as a whole less the function that it decorates."""
    decorator = _trace(**options)

    def decorate(function: Any) -> Any:
        around = _around_stream if inspect.isasyncgenfunction(function) else _around_call
        return around(decorator(around(function, refund=True)), span=True)

    return decorate


def _around_call(function: Call, *, refund: bool = False, span: bool = False) -> Call:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with Timed(refund=refund) as meter:
            meter.spans += span
            return await function(*args, **kwargs)

    return wrapper


def _around_stream(function: Stream, *, refund: bool = False, span: bool = False) -> Stream:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        _meter.get().spans += span
        async with aclosing(function(*args, **kwargs)) as stream:
            while True:
                with Timed(refund=refund):
                    item = await anext(stream, stream)
                if item is stream:
                    return
                yield item

    return wrapper


class TimedTraceMiddleware:
    """TraceMiddleware, timed as a whole less the app and the server around it.

    Opens the account of every request that has an X-Request-ID.
    """

    def __init__(self, app: Any, *, exclude: Iterable[str] = (), **options: Any) -> None:
        self._middleware = TraceMiddleware(_inside(app), exclude=[*exclude, "/demo"], **options)

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        headers = dict(scope.get("headers", ()))
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        meter = _requests.setdefault(request_id, Meter()) if request_id else _outside_of_requests
        token = _meter.set(meter)
        try:
            with Timed():
                await self._middleware(
                    scope, _around_call(receive, refund=True), _around_call(send, refund=True)
                )
        finally:
            _meter.reset(token)


def _inside(app: Any) -> Call:
    """The app as the middleware sees it: refunded, but not its calls back into the middleware."""

    async def inside(scope: Scope, receive: Call, send: Call) -> None:
        with Timed(refund=True) as meter:
            meter.spans += spanferry.get_current_active_span() is not None
            await app(scope, _around_call(receive), _around_call(send))

    return inside


_trace: Final = spanferry.trace
_start_span: Final = spanferry.start_span
spanferry.trace = timed_trace  # type: ignore[assignment]
spanferry.start_span = timed_start_span  # type: ignore[misc]
spanferry.update_current_trace = timed(spanferry.update_current_trace)
spanferry.asgi.TraceMiddleware = TimedTraceMiddleware  # type: ignore[assignment,misc]

from chat_service import app  # noqa: E402  its decorators must find the stop watch


@app.get("/demo/requests")
async def get_requests() -> dict[str, tuple[int, int]]:
    """Spans and nanoseconds of every request so far."""
    return {request_id: (meter.spans, meter.ns) for request_id, meter in _requests.items()}
