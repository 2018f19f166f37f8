"""The client of a tracking server: how it gets in, what it tries again, and what it leaves to the writer."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests.auth
from mlflow.tracking.request_auth import registry as auth_registry
from mlflow.utils.rest_utils import http_request

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.services import http_client
from spanferry_worker.services.http_client import HttpClient, Reply, TimedOutError
from spanferry_worker.services.mlflow_access import Access, Call
from spanferry_worker.services.mlflow_private import credentials
from spanferry_worker.stages.requests import RequestPace, RequestPolicy
from tests.kafka_days.certificates import Authority
from tests.sinks.gateway import Answer, Gateway, Seen, gateway

OpenClient = Callable[..., HttpClient]
OK = Answer(200, body=b"{}")
SECRET = "canary-s3cret"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.01)


@pytest.fixture
def stub() -> Iterator[Gateway]:
    """Answers everything with 200."""
    with gateway() as one:
        one.rule = lambda _: OK
        yield one


@pytest.fixture
def client() -> Iterator[OpenClient]:
    clients: list[HttpClient] = []

    def open_one(uri: str, *, timeout_s: float = 5.0, **policy: Any) -> HttpClient:
        limits = RequestPolicy(**policy)
        clients.append(HttpClient(Access(uri, limits.plain_headers()), limits, timeout_s=timeout_s))
        return clients[-1]

    yield open_one
    for one in clients:
        one.close()


class Signed(requests.auth.AuthBase):
    """An auth plug-in of MLflow's; `answers`: whether it sends again what was refused, as Kerberos does."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Signed"] = f"{request.method} {request.path_url} {request.body!r}"
        if self.answers:
            request.register_hook("response", self.again)
        return request

    def again(self, response: requests.Response, **options: Any) -> requests.Response:
        if response.status_code != 401:
            return response
        retry = response.request.copy()
        retry.headers["Authorization"] = "Negotiate token"
        return response.connection.send(retry, **options)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register an auth plug-in and switch it on."""

    def register(*, answers: bool) -> None:
        class Provider:
            def get_name(self) -> str:
                return "ours"

            def get_auth(self) -> Signed:
                return Signed(answers=answers)

        monkeypatch.setattr(
            auth_registry._request_auth_provider_registry, "_registry", [Provider()]
        )
        monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "ours")

    return register


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MLFLOW_TRACKING_TOKEN": SECRET},
        {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET},
        {"MLFLOW_TRACKING_TOKEN": SECRET, "MLFLOW_WORKSPACE": "team"},
        {"plug-in": "1"},
    ],
)
def test_requests_are_those_of_mlflows_own_client(
    stub: Gateway,
    client: OpenClient,
    plugin: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
) -> None:
    if environment.pop("plug-in", None):
        plugin(answers=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sent = {"name": "ü", "number": 1}
    http_request(credentials(stub.uri), "/api/x", "GET", params={"ids": ["a", "b c"]})
    http_request(credentials(stub.uri), "/api/y", "POST", json=sent, max_retries=0)
    one = client(stub.uri)
    one.ask(Call("GET", "/api/x", params={"ids": ["a", "b c"]}))
    body = stub.seen[1].body
    one.ask(Call("POST", "/api/y", body, {"Content-Type": "application/json"}))
    assert len(stub.seen) == 4
    for theirs, ours in zip(stub.seen[:2], stub.seen[2:], strict=True):
        assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
        assert headers(ours.headers) == headers(theirs.headers)


def headers(of: dict[str, str]) -> dict[str, str]:
    """Less what is the transport's own business."""
    own = {"accept-encoding", "connection", "host"}
    return {key.lower(): value for key, value in of.items() if key.lower() not in own}


def test_a_plug_in_that_answers_is_answered(
    stub: Gateway, client: OpenClient, plugin: Callable[..., None]
) -> None:
    plugin(answers=True)
    stub.rule = lambda seen: OK if "Authorization" in seen.headers else Answer(401)
    assert client(stub.uri).ask(Call("GET", "/")).status == 200
    assert len(stub.seen) == 2


def test_headers_of_the_settings_go_with_mlflows_own_requests_too(
    stub: Gateway, client: OpenClient
) -> None:
    one = client(stub.uri, headers={"X-Gateway-Key": SECRET})
    one.ask(Call("GET", "/ours"))
    http_request(credentials(stub.uri), "/artifacts", "GET")
    assert [seen.headers["X-Gateway-Key"] for seen in stub.seen] == [SECRET] * 2
    assert one.access.masked(f"said {SECRET}") == "said ***"


def test_no_secret_is_told(
    stub: Gateway, client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    one = client(f"http://me:{SECRET}2@{stub.uri.removeprefix('http://')}")
    assert one.ask(Call("GET", "/")).status == 200
    assert SECRET not in f"{one.access.shown} {one.access!r} {one!r} {vars(one)}"
    assert one.access.masked(f"Authorization: Bearer {SECRET}!") == "Authorization: ***!"
    closed = client(f"http://me:{SECRET}@127.0.0.1:{free_port()}")
    with pytest.raises(TransientError) as caught:
        closed.ask(Call("GET", "/", tries=1))
    assert "127.0.0.1" in str(caught.value)
    assert SECRET not in str(caught.value)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_retry_after_is_kept_by_all_requests(stub: Gateway, client: OpenClient) -> None:
    """One is refused with a wait: nobody asks before that is over, and all are answered."""
    refused, known = threading.Event(), threading.Event()
    at_s: list[float] = []

    def rule(seen: Seen) -> Answer:
        at_s.append(time.monotonic())
        if seen.path == "/first" and not refused.is_set():
            refused.set()
            threading.Timer(0.1, known.set).start()
            return Answer(429, {"Retry-After": "0.5"})
        known.wait(20)
        return OK

    stub.rule = rule
    calls = [Call("POST", "/first", repeatable=False), *[Call("GET", "/other")] * 4]
    replies = client(stub.uri, requests_at_once_max=2).ask_all(calls)
    assert [reply.status for reply in replies if isinstance(reply, Reply)] == [200] * 5
    assert len(at_s) == 6
    assert at_s[2] - at_s[0] >= 0.5, "the second was under way already"


@pytest.mark.parametrize("way", ["a lot", "threads"])
def test_a_host_is_not_asked_more_often_than_it_may_be(
    stub: Gateway, client: OpenClient, way: str
) -> None:
    """By all threads together; another host has a pace of its own."""
    at_s: list[float] = []
    stub.rule = lambda _: at_s.append(time.monotonic()) or OK  # type: ignore[func-returns-value]
    one = client(stub.uri, requests_per_s=10, requests_at_once_max=8)
    lot = [Call("GET", "/")] * 14
    with gateway() as another, ThreadPoolExecutor(14) as pool:
        another.rule = lambda _: OK
        other = client(another.uri, requests_per_s=10)
        began_s = time.monotonic()
        if way == "a lot":
            asked = [pool.submit(one.ask_all, lot)]
        else:
            asked = [pool.submit(one.ask_all, [call]) for call in lot]
        while len(at_s) < 2:
            time.sleep(0.005)
        assert other.ask(lot[0]).status == 200
        elsewhere_s = time.monotonic()
        replies = [reply for some in asked for reply in some.result(60)]
    assert all(isinstance(reply, Reply) and reply.status == 200 for reply in replies)
    assert len(at_s) == len(replies) == 14
    for number, at in enumerate(sorted(at_s)):
        assert at - began_s >= number / 10 - 0.005, number
    before = sum(at < elsewhere_s for at in at_s)
    assert before < 8, "as many have taken their places at once"


def test_what_is_tried_again_has_its_place_in_the_pace(
    stub: Gateway, client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    class Counted(RequestPace):
        def take(self, now_s: float) -> float:
            taken.append(now_s)
            return super().take(now_s)

    monkeypatch.setattr(http_client, "RequestPace", Counted)
    stub.rule = lambda _: OK if len(stub.seen) > 2 else Answer(503)
    assert client(stub.uri).ask(Call("GET", "/")).status == 200
    assert len(stub.seen) == len(taken) == 3


def test_a_long_wait_is_the_writers(stub: Gateway, client: OpenClient) -> None:
    stub.times(1, "/a", Answer(503, {"Retry-After": "90"}))
    usual = stub.rule
    stub.rule = lambda seen: usual(seen) or OK
    one = client(stub.uri, retry_after_max_s=60)
    reply = one.ask(Call("GET", "/a"))
    assert (reply.status, reply.retry_after_s) == (503, 60.0), "not for as long as it likes"
    with pytest.raises(TransientError) as caught:
        one.ask(Call("GET", "/b"))
    assert 50 < (caught.value.retry_after_s or 0) <= 60
    assert stub.paths() == ["/a"], "it is not asked before"


@pytest.mark.parametrize("does", ["drop", Answer(503), Answer(502), Answer(500)])
def test_what_passes_is_tried_again_where_that_changes_nothing(
    stub: Gateway, client: OpenClient, does: Answer | str
) -> None:
    stub.times(1, "/x", does)
    usual = stub.rule
    stub.rule = lambda seen: usual(seen) or OK
    one = client(stub.uri)
    assert one.ask(Call("POST", "/x")).status == 200
    assert len(stub.seen) == 2
    stub.times(1, "/x", does)
    again = stub.rule
    stub.rule = lambda seen: again(seen) or OK
    if does == "drop":
        with pytest.raises(TransientError, match="no answer from"):
            one.ask(Call("POST", "/x", repeatable=False))
    else:
        assert one.ask(Call("POST", "/x", repeatable=False)).status == does.status  # type: ignore[union-attr]
    assert len(stub.seen) == 3


def test_an_ill_server_is_not_asked_by_all_of_a_lot(stub: Gateway, client: OpenClient) -> None:
    stub.rule = lambda _: Answer(503)
    one = client(stub.uri, requests_at_once_max=4)
    replies = one.ask_all([Call("POST", "/x") for _ in range(100)])
    assert len(replies) == 100
    assert not [reply for reply in replies if isinstance(reply, Reply) and reply.status < 500]
    assert len(stub.seen) < 400 / 2


def test_a_server_that_says_nothing_is_not_asked_again_at_once(
    stub: Gateway, client: OpenClient
) -> None:
    over = threading.Event()
    stub.rule = lambda _: OK if over.wait(20) else None
    with pytest.raises(TimedOutError, match="ReadTimeout"):
        client(stub.uri, timeout_s=0.3).ask(Call("POST", "/x"))
    over.set()
    assert len(stub.seen) == 1


def test_requests_share_connections_and_no_more_are_under_way_than_may(
    stub: Gateway, client: OpenClient
) -> None:
    five = threading.Barrier(5, timeout=120)
    stub.rule = lambda _: OK if five.wait() >= 0 else None
    replies = client(stub.uri, requests_at_once_max=5).ask_all([Call("GET", "/")] * 60)
    assert all(isinstance(reply, Reply) and reply.status == 200 for reply in replies)
    assert stub.most_under_way == 5
    assert stub.connections == 5


def test_a_client_that_is_closed_ends_what_is_waited_for(stub: Gateway, client: OpenClient) -> None:
    over = threading.Event()
    stub.rule = lambda _: OK if over.wait(20) else None
    one = client(stub.uri)
    raised: list[Exception] = []

    def ask() -> None:
        try:
            one.ask(Call("GET", "/"))
        except TransientError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not stub.seen:
        time.sleep(0.005)
    one.close()
    thread.join(10)
    over.set()
    assert len(raised) == 1
    with pytest.raises(TransientError, match="closed"):
        one.ask(Call("GET", "/"))


def test_tls_by_mlflows_variables(
    client: OpenClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    mine = authority.keystore("worker")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    with gateway(tls=context) as server:
        server.rule = lambda _: OK
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(mine))
        with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
            client(server.uri).ask(Call("GET", "/", tries=1))
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.ca))
        assert client(server.uri).ask(Call("GET", "/")).status == 200
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
        assert client(server.uri).ask(Call("GET", "/")).status == 200
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert client(server.uri).ask(Call("GET", "/")).status == 200
        monkeypatch.delenv("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        with pytest.raises(TransientError):
            client(server.uri).ask(Call("GET", "/", tries=1))
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(tmp_path / "none.pem"))
    with pytest.raises(FatalError, match="MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        client(server.uri)
