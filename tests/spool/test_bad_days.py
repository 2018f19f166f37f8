"""The spool and a real Kafka on bad days: an account of every trace.

CHAOS_SEED in the environment repeats the waits of a run, which prints its own.
"""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spanferry.client import Stats
from spanferry_schemas import read_meta
from tests.processes.in_time import in_time
from tests.producer.topic import read_numbered
from tests.services.kafka import KafkaServer
from tests.services.mlflow_tables import copy_tables
from tests.services.process import free_port
from tests.services.worker import SpanferryWorker
from tests.spool.program import FORK_STRIDE, PROCESSES

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaServer]:
    """One of our own, because it is stopped and killed."""
    with KafkaServer() as server:
        yield server


@pytest.fixture
def topic(broker: KafkaServer) -> str:
    broker.start()
    return broker.create_topic(f"spooled-{uuid.uuid4().hex[:8]}", 6)


def app(broker: str, topic: str, folder: Path, mode: str, count: int) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "tests.spool.program",
        broker,
        topic,
        str(folder),
        mode,
        str(count),
    ]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[list[Stats], str]:
    out, err = process.communicate(timeout=100)
    return [msgspec.json.decode(line, type=Stats) for line in out.splitlines()], err


def spool_command(verb: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spanferry_worker", "spool", verb, "--dir", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def replay(broker: KafkaServer, topic: str, folder: Path) -> None:
    done = spool_command(
        "replay", folder, "--bootstrap-servers", broker.bootstrap_servers, "--topic", topic
    )
    assert done.returncode == 0, done.stderr
    assert not [one for one in folder.iterdir() if one.suffix in {".seg", ".open", ".done"}]


def arrived(broker: KafkaServer, topic: str) -> Counter[int]:
    """How often each trace is there, records with the same producer and sequence counted once."""
    return Counter({number: len(values) for number, values in contents(broker, topic).items()})


def contents(broker: KafkaServer, topic: str) -> dict[int, list[bytes]]:
    """The values of each trace's records, of those with the same producer and sequence the first."""
    names: set[tuple[int, bytes, int]] = set()
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    for record in read_numbered(broker.bootstrap_servers, topic):
        meta = read_meta(record.headers)
        assert meta is not None
        name = (record.partition, meta.producer_id, meta.sequence)
        if name not in names:
            names.add(name)
            found[int.from_bytes(record.key, "big")].append(record.value)
    return found


def test_what_is_left_at_the_exit_is_spooled_in_time_and_said_in_one_line(
    broker: KafkaServer, topic: str, tmp_path: Path
) -> None:
    _, said = ended(app(f"127.0.0.1:{free_port()}", topic, tmp_path, "exit", 2000))
    assert in_time(said, 3.0), said
    lines = [line for line in said.splitlines() if "not acknowledged" in line]
    assert len(lines) == 1, said
    assert (
        f"2000 traces were not acknowledged by Kafka within 3.0 s: they are in the spool {tmp_path}"
        in lines[0]
    )
    assert "lost" not in said
    status = spool_command("status", tmp_path, "--json").stdout
    assert msgspec.json.decode(status)["owners"][0]["traces"] == 2000
    replay(broker, topic, tmp_path)
    assert arrived(broker, topic) == Counter(range(2000))


@pytest.mark.parametrize("mode", ["die-overflow", "die-always"])
def test_kill_9_while_kafka_is_away_loses_nothing_that_the_sender_has_taken(
    broker: KafkaServer, topic: str, tmp_path: Path, mode: str
) -> None:
    (account,), _ = ended(app(f"127.0.0.1:{free_port()}", topic, tmp_path, mode, 2000))
    assert account.traces == 2000
    replay(broker, topic, tmp_path)
    assert arrived(broker, topic) == Counter(range(2000))


@pytest.mark.timeout(500)
def test_four_forked_processes_while_kafka_comes_and_goes(
    broker: KafkaServer, topic: str, tmp_path: Path
) -> None:
    """None of their traces is lost, and none is there twice: neither in the topic nor in MLflow."""
    each = 6000
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10_000))
    print(f"CHAOS_SEED={seed}")
    chance = random.Random(seed)
    process = app(broker.bootstrap_servers, topic, tmp_path, "fork", each)
    away = 0
    while process.poll() is None:
        time.sleep(chance.uniform(0.5, 4))
        broker.kill() if chance.random() < 0.5 else broker.stop()
        away += 1
        time.sleep(chance.uniform(0.5, 4))
        broker.start()
    accounts, _ = ended(process)
    assert away >= 2
    assert len(accounts) == PROCESSES + 1
    for account in accounts:
        assert account.traces == account.traces_sent + account.traces_spooled
        assert account.dropped == {"buffer_full": 0, "oversize": 0, "refused": 0, "broken": 0}
        assert account.traces_dropped == 0
    assert sum(account.traces_spooled for account in accounts) > 0
    replay(broker, topic, tmp_path)
    expected = Counter(range(10))
    for number in range(1, PROCESSES + 1):
        expected.update(range(number * FORK_STRIDE, number * FORK_STRIDE + each))
    found = contents(broker, topic)
    assert set(found) == set(expected)
    twice = [number for number, values in found.items() if len(values) > 1]
    assert not twice, "what was on its way at an end goes again under the same name"
    assert stored(broker, topic, tmp_path / "mlflow.db", len(expected)) == expected


def stored(broker: KafkaServer, topic: str, database: Path, count: int) -> Counter[int]:
    """How often each trace is in MLflow's tables once a worker has stored so many: whole ones only."""
    uri = copy_tables(database, str(database.parent / "artifacts"))
    worker = SpanferryWorker(
        bootstrap_servers=broker.bootstrap_servers,
        topic=topic,
        tracking_uri=uri,
        group=topic,
        warm=True,
    )
    with worker, contextlib.closing(sqlite3.connect(database, timeout=120)) as tables:
        deadline_s = time.monotonic() + 180
        while rows(tables, "SELECT count(*) FROM spans")[0][0] < 2 * count:
            assert time.monotonic() < deadline_s, worker.log_tail()
            time.sleep(0.5)
    with contextlib.closing(sqlite3.connect(database)) as tables:  # the worker has drained
        spans = Counter(
            dict(rows(tables, "SELECT trace_id, count(*) FROM spans GROUP BY trace_id"))
        )
        states = Counter(
            dict(rows(tables, "SELECT status, count(*) FROM trace_info GROUP BY status"))
        )
        found = [name for (name,) in rows(tables, "SELECT request_id FROM trace_info")]
    assert set(spans.values()) == {2}
    assert set(spans) == set(found)
    assert set(states) == {"OK"}
    return Counter(int(name.removeprefix("tr-"), 16) for name in found)


def rows(tables: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    """What is there now."""
    return tables.execute(query).fetchall()
