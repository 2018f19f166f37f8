"""Certificates that are replaced on the disk while the client runs: new connections have the new ones."""

import logging
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spanferry_worker.errors import TransientError
from spanferry_worker.services import http_client, http_connections
from spanferry_worker.services.http_client import HttpClient
from spanferry_worker.services.mlflow_access import Access, Call
from spanferry_worker.stages.requests import RequestPolicy
from tests.kafka_days.certificates import Authority
from tests.sinks.gateway import Answer, Gateway, gateway

OK = Answer(200, body=b"{}")
ONCE = Call("GET", "/", tries=1)


class Place:
    """A server that wants certificates, and the files that the client has been given."""

    def __init__(self, folder: Path) -> None:
        (folder / "made").mkdir()
        self.authority = Authority(folder / "made")
        self.mine = folder / "mine.pem"
        self.ca = folder / "ca.pem"
        self.put(self.mine, self.authority.keystore("first"))
        self.put(self.ca, self.authority.ca)
        certificate, key = self.authority.issue("server")
        self.context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(self.authority.ca)
        )
        self.context.load_cert_chain(certificate, key)
        self.context.verify_mode = ssl.CERT_REQUIRED

    def put(self, to: Path, made: Path) -> None:
        """As those do who replace certificates: at once, and under the same name."""
        copy = to.with_suffix(".new")
        shutil.copyfile(made, copy)
        copy.replace(to)

    def expired(self) -> None:
        self.put(self.mine, self.authority.keystore("old", expired=True))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(made.mine))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(made.ca))
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.01)
    return made


@pytest.fixture
def server(place: Place) -> Iterator[Gateway]:
    with gateway(tls=place.context) as one:
        one.rule = lambda _: OK
        yield one


@pytest.fixture
def client() -> Iterator[Callable[[str], HttpClient]]:
    clients: list[HttpClient] = []

    def open_one(uri: str) -> HttpClient:
        clients.append(HttpClient(Access(uri, {}), RequestPolicy(), timeout_s=30))
        return clients[-1]

    yield open_one
    for one in clients:
        one.close()


def test_a_certificate_that_has_ended_is_replaced_without_a_restart(
    place: Place, server: Gateway, client: Callable[[str], HttpClient]
) -> None:
    place.expired()
    one = client(server.uri)
    with pytest.raises(TransientError):
        one.ask(ONCE)
    place.put(place.mine, place.authority.keystore("second"))
    assert one.ask(Call("GET", "/")).status == 200, (
        "the first try fails, the second has the new one"
    )


def test_authorities_that_are_replaced(
    place: Place, server: Gateway, client: Callable[[str], HttpClient], tmp_path: Path
) -> None:
    place.put(place.ca, Authority(tmp_path / "made", "another").ca)
    one = client(server.uri)
    with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
        one.ask(ONCE)
    place.put(place.ca, place.authority.ca)
    assert one.ask(Call("GET", "/")).status == 200


def test_the_new_ones_are_taken_before_the_old_ones_have_ended(
    place: Place,
    server: Gateway,
    client: Callable[[str], HttpClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing that is under way is cut for it."""
    monkeypatch.setattr(http_connections, "LOOK_S", 0.0)
    over = threading.Event()
    server.rule = lambda seen: OK if seen.path == "/" or over.wait(20) else None
    one = client(server.uri)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.ask, Call("GET", "/slow", repeatable=False))
        while not server.paths("/slow"):
            time.sleep(0.005)
        place.put(place.mine, place.authority.keystore("second"))
        assert one.ask(ONCE).status == 200
        over.set()
        assert slow.result(20).status == 200
    assert server.connections == 2


def test_what_cannot_be_used_changes_nothing(
    place: Place,
    server: Gateway,
    client: Callable[[str], HttpClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a file of which half is written; it is said once."""
    monkeypatch.setattr(http_connections, "LOOK_S", 0.0)
    one = client(server.uri)
    assert one.ask(ONCE).status == 200
    place.mine.write_text("-----BEGIN CERTIFICATE-----\nhalf")
    for _ in range(3):
        assert one.ask(ONCE).status == 200
    told = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(told) == 1
    assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in told[0].getMessage()
    place.put(place.mine, place.authority.keystore("second"))
    caplog.set_level(logging.INFO)
    assert one.ask(ONCE).status == 200
    assert "read again" in caplog.text
