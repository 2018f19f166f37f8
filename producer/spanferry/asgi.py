"""ASGI middleware (FastAPI, Starlette, Litestar, Quart): one trace for every HTTP request.

app.add_middleware(spanferry.asgi.TraceMiddleware)
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Literal, TypeAlias

from spanferry import values
from spanferry.context import RemoteParent, current, leave
from spanferry.entities import SpanStatus, SpanStatusCode
from spanferry.http_body import HttpBody
from spanferry.log import say_once
from spanferry.opening import open_span
from spanferry.propagation import parse_context
from spanferry.spans import NO_OP_SPAN, Span
from spanferry.stopping import let_through
from spanferry.tracing import update_current_trace

__all__ = ["TraceMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_SERVER_ERROR: Final = 500

_CHARS_MAX: Final = 8_192
"""Of a request's path as a name, and of an id in a header. MLflow holds less of each: 4,096 of a trace's
name, 50 of a client request id, 250 of a session, 8,000 of a user. The worker cuts there, after secrets
were replaced, so that what is stored is the same as if all of it had come that far."""

_WANTED: Final = {
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
    b"x-request-id": "client_request_id",
    b"x-session-id": "session_id",
    b"x-user-id": "user",
    b"content-type": "content_type",
}


class TraceMiddleware:
    """The span of a request is current for all that handles it, and open until the last body part.

    X-Request-ID becomes the trace's client request id, X-Session-ID its session, X-User-ID its user;
    where the caller traces with spanferry too, the request belongs to the caller's trace. An
    exception that leaves the app and a status from 500 on are errors. Other connections than HTTP pass
    untouched.

    Clients may send long headers and paths: of each of the three, and of the name, 8,192 characters are
    taken, and MLflow holds 50 of a client request id, 250 of a session and 8,000 of a user, as they begin.
    `url.path` has the whole path.
    """

    def __init__(  # noqa: PLR0913  options of a middleware, by name
        self,
        app: App,
        *,
        name: str | None = None,
        span_type: str = "SERVER",
        exclude: Iterable[str] = (),
        capture_bodies: bool = False,
        body_bytes_max: int = 65_536,
        join: Literal["spanferry", "any", "never"] = "spanferry",
    ) -> None:
        """`join`: whose trace a request may belong to. "spanferry": a caller's that traces with
        spanferry (told by `tracestate`). "any": that of any `traceparent`, for callers with MLflow's
        own SDK; a proxy that sends one would leave every trace without its root. "never": nobody's.

        `name` is the spans' name; else it is method and route, as `POST /chat/{id}`.

        `exclude` are paths that are not traced, with all below them. `capture_bodies` records the
        request's body as inputs and the response's as outputs, each up to `body_bytes_max` bytes.
        """
        self._app = app
        self._name = name
        self._span_type = span_type
        self._exclude = tuple(path.rstrip("/") for path in exclude)
        self._body_bytes_max = body_bytes_max if capture_bodies else 0
        self._join = join

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        exchange = self._open(scope) if scope["type"] == "http" else None
        if exchange is None:
            await self._app(scope, receive, send)
            return
        token = current.set(exchange.span)
        exchange.name_trace()
        try:
            await self._app(scope, exchange.receiving(receive), exchange.sending(send))
        except BaseException as error:
            leave(token)
            exchange.fail(error)
            raise
        leave(token)
        exchange.finish()

    def _caller(self, headers: dict[str, str]) -> RemoteParent | None:
        if self._join == "never":
            return None
        parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
        return parse_context(parent, state, ours_only=self._join == "spanferry")

    def _open(self, scope: Scope) -> "_Exchange | None":
        try:
            path = values.text(scope["path"])
            if any(path == prefix or path.startswith(prefix + "/") for prefix in self._exclude):
                return None
            headers = _headers(scope)
            caller = self._caller(headers)
            name = self._name or f"{scope['method']} {path}"[:_CHARS_MAX]
            span = open_span(name, self._span_type, caller)
            if span is NO_OP_SPAN:
                return None
            return _Exchange(span, scope, headers, self._body_bytes_max, named=bool(self._name))
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            let_through(error)
            say_once("asgi", "a request could not be traced: %s", values.text(error))
            return None


class _Exchange:
    """One request and its response. Nothing but what the app and the server raise is raised."""

    def __init__(
        self,
        span: Span,
        scope: Scope,
        headers: dict[str, str],
        body_bytes_max: int,
        *,
        named: bool,
    ) -> None:
        self.span = span
        self._scope = scope
        self._headers = headers
        self._named = named
        self._status: int | None = None
        self._request = HttpBody(body_bytes_max, headers.get("content_type", ""))
        self._response = HttpBody(body_bytes_max, "")

    def name_trace(self) -> None:
        """Take over what the headers say of the trace; the caller's service does so for its own."""
        if not self.span.recording or self.span.trace.remote:
            return
        update_current_trace(
            client_request_id=self._id("client_request_id"),
            session_id=self._id("session_id"),
            user=self._id("user"),
        )

    def _id(self, name: str) -> str | None:
        """What a header says of the trace, as much as may be of use."""
        given = self._headers.get(name)
        if given is None or len(given) <= _CHARS_MAX:
            return given
        say_once(
            f"asgi-{name}",
            "a header with a %s of %d characters has come: %d are taken, MLflow holds fewer",
            name,
            len(given),
            _CHARS_MAX,
        )
        return given[:_CHARS_MAX]

    def receiving(self, receive: Receive) -> Receive:
        """`receive` for the app."""
        if not self._request.bytes_max:
            return receive

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self._request.add(message.get("body", b""))
            return message

        return received

    def sending(self, send: Send) -> Send:
        """`send` for the app: the response's last part ends the span."""

        async def sent(message: Message) -> None:
            kind = message["type"]
            if kind == "http.response.start":
                self._start(message)
            elif kind == "http.response.body":
                self._response.add(message.get("body", b""))
            await send(message)
            if kind == "http.response.body" and not message.get("more_body", False):
                self.finish()

        return sent

    def fail(self, error: BaseException) -> None:
        """`error` has left the app: an error of the request unless that has its whole answer."""
        if self.span.end_time_ns is None:
            self.span.record_exception(error)
            self.finish()

    def finish(self) -> None:
        """The response is complete, or never will be."""
        span = self.span
        if not span.recording or span.end_time_ns is not None:
            return
        try:
            self._describe(span)
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            let_through(error)
            say_once("asgi-end", "a request could not be described: %s", values.text(error))
        span.end()

    def _start(self, message: Message) -> None:
        try:
            self._status = int(message["status"])
            if self._response.bytes_max:
                self._response.content_type = _headers(message).get("content_type", "")
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            let_through(error)
            say_once("asgi-start", "a response could not be read: %s", values.text(error))

    def _describe(self, span: Span) -> None:
        scope = self._scope
        span.set_attribute("http.request.method", scope["method"])
        span.set_attribute("url.path", scope["path"])
        route = getattr(scope.get("route"), "path", None)
        if isinstance(route, str):
            span.set_attribute("http.route", route)
            if not self._named:
                span.rename(f"{scope['method']} {route}")
        if self._status is not None:
            span.set_attribute("http.response.status_code", self._status)
            if self._status >= _SERVER_ERROR:
                span.set_status(SpanStatus(SpanStatusCode.ERROR, f"HTTP {self._status}"))
        if self._request.parts:
            span.set_inputs(self._request.content())
        if self._response.parts and span.lacks_outputs:
            span.set_outputs(self._response.content())


def _headers(message: Message) -> dict[str, str]:
    """The headers that matter here, by our names; the first of a name counts."""
    found: dict[str, str] = {}
    for name, value in message.get("headers") or ():
        wanted = _WANTED.get(name.lower())
        if wanted is not None and wanted not in found:
            found[wanted] = value.decode("latin-1")
    return found
