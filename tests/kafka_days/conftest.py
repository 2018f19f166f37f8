"""One secured Kafka for all of these tests, which may stop, kill and replace it, and start it again."""

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from spanferry import connecting, log, pace, sessions
from tests.kafka_days.app import App
from tests.kafka_days.certificates import Authority
from tests.kafka_days.proxy import Proxy, proxy
from tests.kafka_days.secured import SecuredKafka


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the brokers' certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody knows."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="session")
def days_broker(authority: Authority) -> Iterator[SecuredKafka]:
    with SecuredKafka(authority) as server:
        yield server


@pytest.fixture
def broker(days_broker: SecuredKafka) -> SecuredKafka:
    """Running, whatever the test before has done to it."""
    days_broker.start()
    return days_broker


@pytest.fixture
def topic(broker: SecuredKafka) -> str:
    return broker.create_topic(f"day-{uuid.uuid4().hex[:8]}", 2)


@pytest.fixture
def way(broker: SecuredKafka) -> Iterator[Proxy]:
    """The only way to the listener PROXIED, by which it also announces itself."""
    port = int(broker.at("PROXIED").rpartition(":")[2])
    with proxy(broker.proxy_port, port) as one:
        yield one


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits waits less, and nothing was said yet."""
    monkeypatch.setattr(log, "_said", set())
    monkeypatch.setattr(connecting, "_GREETING_S", 2.0)
    monkeypatch.setattr(connecting, "_LOST_S", 1.0)
    monkeypatch.setattr(pace, "_PATIENCE_S", 3.0)
    monkeypatch.setattr(sessions, "_BACKOFF_MAX_S", 0.5)
    monkeypatch.setattr(connecting, "_TOPIC_S", 1.0)


@pytest.fixture
def app(caplog: pytest.LogCaptureFixture) -> Iterator[App]:
    """An app whose log is kept whole."""
    caplog.set_level(logging.DEBUG)
    one = App(caplog)
    yield one
    one.off()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """For files of secrets."""
    return tmp_path
