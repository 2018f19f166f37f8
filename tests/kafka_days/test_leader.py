"""Partitions that move from one broker to another while traces flow."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from spanferry import pace
from spanferry.client import stats
from tests.kafka_days.app import App, arrived
from tests.kafka_days.secured import RIGHTS, SecuredKafka
from tests.services.kafka import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

JOINS = """\
process.roles=broker
node.id=2
listeners=PLAINTEXT://{servers}
controller.quorum.voters=1@127.0.0.1:{controller_port}
"""


class SecondBroker(KafkaServer):
    """Joins the other's cluster, without a controller of its own."""

    def __init__(self, first: KafkaServer) -> None:
        super().__init__(heap_mb=256)
        self._external = ""
        self._first = first

    def _more_properties(self, folder: Path) -> str:
        port = self._first.controller_port
        return JOINS.format(servers=self.bootstrap_servers, controller_port=port) + RIGHTS

    def _format(self, folder: Path) -> None:
        self._format_as(self._first.cluster_id, folder)


@pytest.fixture
def second(broker: SecuredKafka) -> Iterator[SecondBroker]:
    with SecondBroker(broker) as server:
        yield server


async def leaders(servers: str, topic: str) -> set[int]:
    """The brokers that lead its partitions."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        cluster = consumer._client.cluster
        return {one.leader for one in cluster._partitions[topic].values()}
    finally:
        await consumer.stop()


def test_leaders_that_move(
    broker: SecuredKafka, second: SecondBroker, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_PATIENCE_S", 20.0)
    servers = broker.bootstrap_servers
    name = broker.create_topic("moved", 4, replicas=2)
    assert asyncio.run(leaders(servers, name)) == {1, 2}
    app.on(f"{servers},{second.bootstrap_servers}", name)
    app.send(100, every_s=0.002)
    second.kill()
    app.send(200, every_s=0.02)
    app.delivers(40)
    assert asyncio.run(leaders(servers, name)) == {1}
    assert arrived(servers, name) == Counter(range(300))
    assert app.warnings == []
    assert stats().troubles == {}
