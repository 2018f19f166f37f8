"""What comes back from the spool: as fast as Kafka takes it, in order, and not in the way of new traces."""

import time
from collections import defaultdict
from pathlib import Path

import pytest

from spanferry import client, spooling
from spanferry.client import flush, stats
from tests.kafka_days.app import App, arrived, until
from tests.kafka_days.proxy import Proxy
from tests.kafka_days.secured import SecuredKafka
from tests.producer.topic import read_numbered

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

TRACES, TRACE_BYTES = 600, 20_000
BYTES_PER_S = 2_000_000


def staged_bytes() -> int:
    """In memory, and on their way."""
    current = client._client
    assert current is not None
    return current._sender.dispatcher._lanes.waiting_bytes


def test_a_replay_over_a_thin_way_holds_little_in_memory_and_keeps_new_traces_waiting_little(
    broker: SecuredKafka, topic: str, app: App, way: Proxy, tmp_path: Path
) -> None:
    way.refuse()
    servers = f"127.0.0.1:{broker.proxy_port}"
    app.on(servers, topic, spool_dir=str(tmp_path), compression="none", batch_bytes=500_000)
    app.send(TRACES, TRACE_BYTES)
    until(lambda: stats().traces_spooled == TRACES, 100)
    way.bytes_per_s = BYTES_PER_S
    way.accept()
    until(lambda: stats().spool_parcels_replayed > 0, 100)
    begun_s = time.monotonic()
    app.send(1)
    assert flush(100)
    waited_s = time.monotonic() - begun_s
    assert stats().spool_parcels_replayed < TRACES, "the replay goes on meanwhile"
    ahead_s = (spooling._REPLAYED_BYTES_MAX + 2 * 500_000) / BYTES_PER_S
    assert waited_s < ahead_s + 2.5
    held: list[int] = []
    while stats().spool_parcels_replayed < TRACES:
        held.append(staged_bytes())
        time.sleep(0.02)
        assert time.monotonic() - begun_s < 150, stats()
    assert max(held) <= spooling._REPLAYED_BYTES_MAX + 2 * TRACE_BYTES
    assert max(held) > spooling._REPLAYED_BYTES_MAX / 2, "it is the limit that is met"
    app.adds_up()
    assert set(arrived(broker.bootstrap_servers, topic)) == set(range(TRACES + 1))


def test_what_was_spooled_comes_in_order_within_each_partition(
    broker: SecuredKafka, topic: str, app: App, way: Proxy, tmp_path: Path
) -> None:
    """Over several segments, and an end in between."""
    servers = f"127.0.0.1:{broker.proxy_port}"
    options = {"spool_dir": str(tmp_path), "spool_bytes": 8 * 1024 * 1024}
    way.refuse()
    app.on(servers, topic, **options)
    app.send(200, 5_000)
    until(lambda: stats().traces_spooled == 200, 100)
    app.off()
    assert len([one for one in tmp_path.iterdir() if one.suffix == ".seg"]) > 1
    way.accept()
    app.on(servers, topic, **options)
    until(lambda: stats().spool_parcels_replayed == 200, 100)
    found: defaultdict[int, list[int]] = defaultdict(list)
    for record in read_numbered(broker.bootstrap_servers, topic):
        found[record.partition].append(int.from_bytes(record.key, "big"))
    assert sum(map(len, found.values())) == 200
    assert len(found) == 2
    for numbers in found.values():
        assert numbers == sorted(numbers)
