"""TraceMiddleware around apps of FastAPI, of Starlette and of nobody."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

import spanferry
from spanferry.asgi import TraceMiddleware
from spanferry.testing import CapturedTrace, capture

pytestmark = pytest.mark.both_loops


def client(app: Any, **options: Any) -> httpx.AsyncClient:
    """A client that calls the app in this process, as a server would."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app", **options)


@spanferry.trace
def answer(question: str) -> str:
    """What the app is for."""
    return question.upper()


async def chat(room: str, body: dict[str, str]) -> dict[str, str]:
    """JSON in, JSON out."""
    return {"room": room, "answer": answer(body["question"])}


def in_a_thread() -> str:
    """A handler that FastAPI runs in a thread."""
    return answer("sync")


async def stream() -> StreamingResponse:
    """An answer in parts, with spans of its own."""

    async def parts() -> AsyncIterator[str]:
        for part in ("one ", "two"):
            with spanferry.start_span(part.strip()):
                await asyncio.sleep(0)
            yield part

    return StreamingResponse(parts(), media_type="text/plain")


async def fails() -> None:
    """A bug."""
    raise ValueError("wrong")


async def busy() -> None:
    """An error of the server's that is meant."""
    raise fastapi.HTTPException(503)


async def absent() -> None:
    """An error of the client's."""
    raise fastapi.HTTPException(404)


async def health() -> str:
    """What a probe asks."""
    return "up"


def chat_app(**options: Any) -> fastapi.FastAPI:
    """An app with what apps have."""
    app = fastapi.FastAPI()
    app.add_middleware(TraceMiddleware, **options)
    app.post("/chat/{room}")(chat)
    app.get("/sync")(in_a_thread)
    app.get("/stream", response_model=None)(stream)
    app.get("/fails")(fails)
    app.get("/busy")(busy)
    app.get("/absent")(absent)
    app.get("/health/live")(health)
    return app


def only_trace(captured: capture) -> CapturedTrace:
    """The one trace, complete."""
    (trace,) = captured.traces
    assert trace.complete
    return trace


async def test_a_request_is_a_trace(captured: capture) -> None:
    async with client(chat_app()) as http:
        response = await http.post(
            "/chat/blue?token=secret",
            json={"question": "why"},
            headers={"X-Request-ID": "request-1", "X-Session-ID": "session-1", "X-User-ID": "me"},
        )
    assert response.json() == {"room": "blue", "answer": "WHY"}
    trace = only_trace(captured)
    assert trace.name == trace.root.name == "POST /chat/{room}"
    assert trace.client_request_id == "request-1"
    assert trace.metadata == {"mlflow.trace.session": "session-1", "mlflow.trace.user": "me"}
    attributes = trace.root.attributes
    assert attributes["http.request.method"] == "POST"
    assert attributes["url.path"] == "/chat/blue"
    assert attributes["http.route"] == "/chat/{room}"
    assert attributes["http.response.status_code"] == 200
    assert (trace.state, trace.root.span_type) == ("OK", "SERVER")
    assert (trace.root.inputs, trace.root.outputs) == (None, None)
    assert trace.span("answer").parent_id == trace.root.span_id
    assert "secret" not in str(attributes)


async def test_nothing_is_made_up(captured: capture) -> None:
    async with client(chat_app(name="chat", span_type="AGENT")) as http:
        await http.post("/chat/blue", json={"question": "why"})
    trace = only_trace(captured)
    assert (trace.name, trace.root.span_type) == ("chat", "AGENT")
    assert (trace.client_request_id, trace.metadata) == (None, {})


async def test_a_handler_in_a_thread_is_part_of_the_trace(captured: capture) -> None:
    async with client(chat_app()) as http:
        assert (await http.get("/sync")).json() == "SYNC"
    trace = only_trace(captured)
    assert trace.span("answer").parent_id == trace.root.span_id


async def test_a_stream_is_open_until_its_last_part(captured: capture) -> None:
    async with client(chat_app()) as http:
        assert (await http.get("/stream")).text == "one two"
    trace = only_trace(captured)
    assert [span.name for span in trace.spans] == ["GET /stream", "one", "two"]
    assert (trace.root.end_time_ns or 0) >= (trace.span("two").end_time_ns or 0)


@pytest.mark.parametrize(
    ("path", "state", "status", "description"),
    [
        ("/fails", "ERROR", 500, "ValueError: wrong"),
        ("/busy", "ERROR", 503, "HTTP 503"),
        ("/absent", "OK", 404, ""),
        ("/nowhere", "OK", 404, ""),
    ],
)
async def test_errors(
    path: str, state: str, status: int, description: str, captured: capture
) -> None:
    async with client(chat_app()) as http:
        assert (await http.get(path)).status_code == status
    trace = only_trace(captured)
    assert (trace.state, trace.root.status.description) == (state, description)
    assert trace.name == f"GET {path}"


async def test_a_caller_with_a_trace_is_joined(captured: capture) -> None:
    async with client(chat_app()) as http:
        with spanferry.start_span("caller") as caller:
            headers = spanferry.get_tracing_context_headers_for_http_request()
            await http.get("/sync", headers={**headers, "X-Request-ID": "not the caller's"})
    trace = only_trace(captured)
    assert trace.trace_id == caller.trace_id
    assert trace.span("GET /sync").parent_id == caller.span_id
    assert trace.name == "caller"
    assert trace.client_request_id is None


CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


async def test_what_the_caller_does_not_sample_is_left_out(captured: capture) -> None:
    ours = {"traceparent": CALLER + "00", "tracestate": "spanferry=b7ad6b716920333100"}
    async with client(chat_app()) as http:
        response = await http.get("/sync", headers=ours)
    assert response.json() == "SYNC"
    assert not captured.parcels


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_proxy_that_traces_elsewhere_takes_no_trace_away(
    captured: capture, flags: str
) -> None:
    async with client(chat_app()) as http:
        await http.get("/sync", headers={"traceparent": CALLER + flags, "X-User-ID": "u"})
    trace = only_trace(captured)
    assert trace.complete
    assert trace.root.parent_id is None
    assert trace.metadata["mlflow.trace.user"] == "u"


async def test_any_caller_can_be_joined_and_none(captured: capture) -> None:
    async with client(chat_app(join="any")) as http:
        await http.get("/sync", headers={"traceparent": CALLER + "01"})
    assert captured.traces[0].trace_id == "tr-0af7651916cd43dd8448eb211c80319c"
    ours = {"traceparent": CALLER + "01", "tracestate": "spanferry=b7ad6b716920333101"}
    async with client(chat_app(join="never")) as http:
        await http.get("/sync", headers=ours)
    assert captured.traces[1].complete


async def test_excluded_paths_are_left_out(captured: capture) -> None:
    async with client(chat_app(exclude=["/health/", "/syn"])) as http:
        assert (await http.get("/health/live")).json() == "up"
        await http.get("/sync")
    assert only_trace(captured).name == "GET /sync"


async def test_bodies_are_recorded_where_that_is_wanted(captured: capture) -> None:
    async with client(chat_app(capture_bodies=True, body_bytes_max=40)) as http:
        await http.post("/chat/blue", json={"question": "why"})
        await http.post("/chat/blue", json={"question": "w" * 100})
        await http.get("/stream")
        await http.post("/chat/blue", content=b"{broken", headers={"content-type": "a/json"})
        await http.post("/chat/blue", content=b"\x00\x01", headers={"content-type": "image/png"})
    roots = [trace.root for trace in captured.traces]
    assert roots[0].inputs == {"question": "why"}
    assert roots[0].outputs == {"room": "blue", "answer": "WHY"}
    assert roots[1].inputs.startswith('{"question":"www')
    assert roots[1].inputs.endswith("<spanferry: cut, 115 bytes in all>")
    assert roots[2].outputs == "one two"
    assert roots[3].inputs == "{broken"
    assert roots[4].inputs == "<spanferry: 2 bytes of image/png>"


async def test_background_work_does_not_hold_the_request_open(captured: capture) -> None:
    done: list[int] = []

    async def later() -> None:
        done.append(len(captured.parcels))
        with spanferry.start_span("later"):
            pass
        raise ValueError("in the background")

    async def handler(request: Request) -> PlainTextResponse:
        return PlainTextResponse("answer", background=BackgroundTask(later))

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(TraceMiddleware)
    async with client(app) as http:
        await http.get("/")
    assert done == [1]
    assert captured.traces[0].state == "OK"
    assert captured.traces[0].span("later").parent_id == captured.traces[0].root.span_id


async def test_a_client_that_goes_away_ends_the_span(captured: capture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(60)

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    task = asyncio.create_task(TraceMiddleware(app)(scope, send, send))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    trace = only_trace(captured)
    assert trace.state == "ERROR"
    assert "CancelledError" in trace.root.status.description
    assert spanferry.get_current_active_span() is None


async def test_an_app_that_never_answers_ends_its_span(captured: capture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    await TraceMiddleware(app)({"type": "http", "method": "GET", "path": "/"}, None, None)  # type: ignore[arg-type]
    assert "http.response.status_code" not in only_trace(captured).root.attributes


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_connections_pass_untouched(kind: str, captured: capture) -> None:
    seen: list[Any] = []

    async def app(*connection: Any) -> None:
        seen.extend(connection)

    connection: tuple[Any, ...] = ({"type": kind}, object(), object())
    await TraceMiddleware(app)(*connection)
    assert all(a is b for a, b in zip(seen, connection, strict=True))
    assert not captured.parcels


@pytest.mark.usefixtures("unsaid")
async def test_without_enable_the_app_gets_what_the_server_gave() -> None:
    seen: list[Any] = []

    async def app(*connection: Any) -> None:
        seen.extend(connection)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    connection: tuple[Any, ...] = (scope, object(), object())
    await TraceMiddleware(app)(*connection)
    assert all(a is b for a, b in zip(seen, connection, strict=True))


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "http"},
        {"type": "http", "method": "GET", "path": "/", "headers": [(1, 2)]},
        {"type": "http", "method": None, "path": None, "headers": None},
    ],
)
async def test_odd_scopes_do_not_break_the_app(scope: Any, captured: capture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": "odd", "headers": 3})
        await send({"type": "http.response.body"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await TraceMiddleware(app, capture_bodies=True)(scope, None, send)  # type: ignore[arg-type]
    assert len(sent) == 2


@pytest.mark.usefixtures("unsaid")
async def test_of_long_headers_and_paths_so_much_is_taken(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        pass

    long = "x" * 60_000
    names = (b"x-request-id", b"x-session-id", b"x-user-id")
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/{long}",
        "headers": [(name, long.encode()) for name in names],
    }
    for _ in range(2):
        await TraceMiddleware(app)(scope, None, send)  # type: ignore[arg-type]
    trace = captured.traces[0]
    taken = "x" * 8_192
    assert trace.client_request_id == taken
    assert trace.metadata == {"mlflow.trace.session": taken, "mlflow.trace.user": taken}
    assert trace.name == trace.root.name == f"GET /{long}"[:8_192]
    assert trace.root.attributes["url.path"] == f"/{long}"
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "client_request_id of 60000 characters" in text] == [
        "a header with a client_request_id of 60000 characters has come: 8192 are taken, MLflow holds "
        "fewer"
    ]


async def test_the_apps_own_names_win(captured: capture) -> None:
    async def handler(request: Request) -> JSONResponse:
        spanferry.update_current_trace(session_id="own", tags={"mlflow.traceName": "own"})
        span = spanferry.get_current_active_span()
        assert span is not None
        span.set_outputs("own")
        return JSONResponse({})

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(TraceMiddleware, capture_bodies=True)
    async with client(app) as http:
        await http.get("/", headers={"X-Session-ID": "from the header"})
    trace = only_trace(captured)
    assert (trace.name, trace.root.outputs) == ("own", "own")
    assert trace.metadata == {"mlflow.trace.session": "own"}
