"""Kafka missing, slow, deaf, refusing: one line, no wait, and every trace once when it is mended."""

import time
import uuid
from collections import Counter

import pytest

from spanferry import connecting
from spanferry.client import stats
from tests.kafka_days.app import App, arrived, until
from tests.kafka_days.proxy import Proxy
from tests.kafka_days.secured import SecuredKafka

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]


def proxied(broker: SecuredKafka) -> str:
    """Through `way`."""
    return f"127.0.0.1:{broker.proxy_port}"


def once(broker: SecuredKafka, topic: str, app: App) -> None:
    """Every trace is in the topic, under one name."""
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(app.sent))


def test_missing_at_the_start(broker: SecuredKafka, topic: str, app: App, way: Proxy) -> None:
    way.refuse()
    app.on(proxied(broker), topic)
    app.send(100, every_s=0.01)
    assert "nothing listens on" in app.in_trouble("unreachable")
    time.sleep(2)
    assert stats().troubles["unreachable"] >= 3
    way.accept()
    app.delivers()
    once(broker, topic, app)
    (line,) = app.warnings
    assert "traces wait" in line
    assert "again, after" in app.log


def test_killed_in_the_middle(broker: SecuredKafka, topic: str, app: App) -> None:
    app.on(broker.bootstrap_servers, topic)
    app.send(50)
    app.delivers()
    app.send(50, every_s=0.002)
    broker.kill()
    app.send(150, every_s=0.02)
    app.in_trouble("unreachable")
    broker.start()
    app.delivers()
    once(broker, topic, app)
    assert len(app.warnings) == 1, app.warnings


def test_refusing_and_cutting(broker: SecuredKafka, topic: str, app: App, way: Proxy) -> None:
    app.on(proxied(broker), topic)
    for _ in range(5):
        app.send(20, every_s=0.01)
        way.cut()
    app.delivers()
    way.refuse()
    app.send(50, every_s=0.01)
    app.in_trouble("unreachable")
    way.accept()
    app.delivers()
    once(broker, topic, app)
    assert len(app.warnings) == 1, app.warnings


def test_deaf(broker: SecuredKafka, topic: str, app: App, way: Proxy) -> None:
    """Packets vanish, as behind a firewall that was changed."""
    app.on(proxied(broker), topic)
    app.send(10)
    app.delivers()
    way.freeze()
    app.send(100, every_s=0.01)
    assert "does not answer" in app.in_trouble("silent")
    way.thaw()
    app.delivers()
    once(broker, topic, app)
    assert len(app.warnings) == 1, app.warnings
    assert stats().troubles["unacknowledged"] == 1


def test_deaf_from_the_start(broker: SecuredKafka, topic: str, app: App, way: Proxy) -> None:
    way.freeze()
    app.on(proxied(broker), topic)
    app.send(100)
    assert "does not answer" in app.in_trouble("silent")
    way.thaw()
    app.delivers()
    once(broker, topic, app)
    assert len(app.warnings) == 1, app.warnings


def test_slow(broker: SecuredKafka, topic: str, app: App, way: Proxy) -> None:
    way.delay_s = 0.1
    app.on(proxied(broker), topic)
    app.send(300, every_s=0.005)
    app.delivers()
    once(broker, topic, app)
    assert app.warnings == []
    assert stats().troubles == {}


def test_a_way_too_thin_for_our_batches(
    broker: SecuredKafka, topic: str, app: App, way: Proxy
) -> None:
    way.bytes_per_s = 250_000
    app.on(proxied(broker), topic, compression="none")
    app.send(40, 20_000)  # one request of 800 KB, which takes longer than we wait
    app.delivers(60)
    once(broker, topic, app)
    assert stats().troubles["unacknowledged"] <= 3
    assert len(app.warnings) == 1, app.warnings
    assert "a slow way there" in app.warnings[0]


def test_an_announced_address_that_leads_nowhere(
    broker: SecuredKafka, topic: str, app: App
) -> None:
    app.on(broker.at("NOWHERE"), topic)
    app.send(10)
    assert "advertised.listeners" in app.in_trouble("advertised")
    assert len(app.warnings) == 1


def test_a_missing_topic_that_is_made(broker: SecuredKafka, app: App) -> None:
    name = f"late-{uuid.uuid4().hex[:8]}"
    app.on(broker.bootstrap_servers, name)
    app.send(100, every_s=0.01)
    assert "spanferry topics create" in app.in_trouble("topic")
    time.sleep(2)
    broker.create_topic(name, 3)
    app.delivers()
    once(broker, name, app)
    assert len(app.warnings) == 1, app.warnings


def test_a_topic_deleted_and_made_again(broker: SecuredKafka, topic: str, app: App) -> None:
    app.on(broker.bootstrap_servers, topic)
    app.send(30)
    app.delivers()
    broker.delete_topic(topic)
    app.send(30, every_s=0.01)
    app.in_trouble("topic")
    broker.create_topic(topic, 5)
    app.delivers()
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(30, 60))
    assert len(app.warnings) == 1, app.warnings


def test_a_topic_that_takes_small_messages_only(broker: SecuredKafka, app: App) -> None:
    name = broker.create_topic(f"small-{uuid.uuid4().hex[:8]}", 2, {"max.message.bytes": "50000"})
    app.on(broker.bootstrap_servers, name, compression="none")
    app.send(50, 20_000)
    app.send(2, 300_000)
    app.send(50, 20_000)
    app.delivers()
    assert set(arrived(broker.bootstrap_servers, name)) == set(range(102))
    (line,) = app.warnings
    assert "Raise its max.message.bytes" in line


def test_back_after_long(
    broker: SecuredKafka, topic: str, app: App, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle connections are closed and metadata is old; then Kafka is away, and back."""
    monkeypatch.setattr(connecting, "_IDLE_S", 0.5)
    monkeypatch.setattr(connecting, "_METADATA_AGE_S", 1.0)
    app.on(proxied(broker), topic)
    app.send(20)
    app.delivers()
    before = way.connections
    until(lambda: way.connections > before + 1, 100)  # closed, and made again for the metadata
    app.send(20)
    app.delivers()
    way.refuse()
    until(lambda: stats().troubles.get("unreachable", 0) > 5, 100)
    way.accept()
    until(lambda: stats().connected, 100)
    app.send(20)
    app.delivers()
    once(broker, topic, app)
    assert len(app.warnings) == 1, app.warnings


def test_with_a_spool_nothing_is_dropped(
    broker: SecuredKafka, topic: str, app: App, way: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    app.on(proxied(broker), topic, spool_dir=str(folder), buffer_bytes=1_000_000)
    app.send(20)
    app.delivers()
    way.refuse()
    for _ in range(30):
        app.send(10, 20_000, every_s=0.005)
    app.in_trouble("unreachable")
    until(lambda: stats().traces_spooled > 200, 100)
    way.accept()
    until(lambda: stats().spool_parcels_replayed == stats().traces_spooled, 100)
    app.adds_up()
    assert stats().traces_dropped == 0
    once(broker, topic, app)
    (line,) = app.warnings
    assert f"traces go to the spool {folder}" in line
