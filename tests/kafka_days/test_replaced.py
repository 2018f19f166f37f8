"""Another cluster under the same address: everything later arrives there, and nothing hangs."""

import asyncio
from collections import Counter

import pytest
from aiokafka import AIOKafkaProducer

from spanferry import client, connecting
from spanferry.client import stats
from spanferry_schemas import read_meta
from tests.kafka_days.app import App, arrived
from tests.kafka_days.proxy import Proxy
from tests.kafka_days.secured import SecuredKafka
from tests.producer.topic import read_numbered

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]


THEIRS = 999


def replaced(broker: SecuredKafka) -> None:
    broker.kill()
    broker.replace()
    broker.start()


def test_a_new_cluster_under_the_same_name(broker: SecuredKafka, topic: str, app: App) -> None:
    app.on(broker.bootstrap_servers, topic)
    app.send(30)
    app.delivers()
    replaced(broker)
    app.send(30, every_s=0.01)
    app.in_trouble("topic")
    broker.create_topic(topic, 4)
    app.delivers()
    app.send(30)
    app.delivers()
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(30, 90))
    by_partition: dict[int, list[int]] = {}
    for record in read_numbered(broker.bootstrap_servers, topic):
        meta = read_meta(record.headers)
        assert meta is not None
        by_partition.setdefault(record.partition, []).append(meta.sequence)
    assert set(by_partition) == {0, 1, 2, 3}
    for found in by_partition.values():
        assert found == list(range(found[0], found[0] + len(found)))
    assert stats().traces_buffered == 0
    assert len(app.warnings) == 2, app.warnings  # Kafka is away; the topic is


def test_a_producers_id_that_is_somebody_elses_in_the_new_cluster(
    broker: SecuredKafka, app: App, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka would take our batch for a repetition of theirs: acknowledged, and stored nowhere."""
    monkeypatch.setattr(connecting, "_LOST_S", 60.0)  # the same producer meets both clusters
    name = broker.create_topic("same-name", 1)
    app.on(f"127.0.0.1:{broker.proxy_port}", name)
    for _ in range(3):
        app.send(1)
        app.delivers()
    ours = _producer_id()
    way.refuse()
    replaced(broker)
    broker.create_topic(name, 1)
    asyncio.run(_write_under(ours, broker.bootstrap_servers, name, 5))
    way.accept()
    app.send(1)
    app.delivers()
    assert arrived(broker.bootstrap_servers, name) == Counter({3: 1, THEIRS: 5})
    assert stats().troubles["replaced"] == 1
    assert app.warnings == []


def _producer_id() -> int:
    current = client._client
    assert current is not None
    found: int = current._sender.dispatcher._producer._txn_manager.producer_id
    return found


async def _write_under(producer_id: int, servers: str, topic: str, count: int) -> None:
    """Batches of one record, by whichever client Kafka gives that id to."""
    while True:
        other = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True)
        await other.start()
        assert other._txn_manager.producer_id <= producer_id
        try:
            if other._txn_manager.producer_id == producer_id:
                for number in range(count):
                    key, headers = THEIRS.to_bytes(16, "big"), _header(number)
                    await other.send_and_wait(topic, b"theirs", key, headers=headers)
                return
        finally:
            await other.stop()


def _header(sequence: int) -> list[tuple[str, bytes]]:
    from spanferry_schemas import RecordKind, RecordMeta, write_meta

    meta = RecordMeta(producer_id=b"somebody", sequence=sequence, kind=RecordKind.FRAGMENT, size=6)
    return [write_meta(meta)]
