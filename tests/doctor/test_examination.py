"""The whole examination: with nothing, with half of it, and with everything there."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.protocol.admin import (
    ApiVersionResponse_v0,
    SaslAuthenticateResponse_v1,
    SaslHandShakeResponse_v1,
)

from spanferry_schemas.limits import RECORD_BYTES_MAX
from spanferry_worker.dev.broker import EmbeddedBroker
from spanferry_worker.doctor.examination import examine
from spanferry_worker.doctor.findings import Area, Finding, Level
from spanferry_worker.settings import KafkaSettings, MlflowSettings, Settings
from spanferry_worker.stages.archive import ArchivePolicy
from tests.services.kafka import KafkaServer
from tests.services.mlflow import MlflowServer
from tests.services.worker import SpanferryWorker

TOPIC = "doctor.traces"
GROUP = "doctor-tests"


async def examined(
    bootstrap_servers: str, tracking_uri: str = "", *, topic: str = TOPIC, crossing_s: float = 3.0
) -> list[Finding]:
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topic=topic, group=GROUP)
    settings = Settings(kafka=kafka, mlflow=MlflowSettings(tracking_uri=tracking_uri))
    return await examine(
        settings, record_bytes_max=RECORD_BYTES_MAX, connect_s=5.0, crossing_s=crossing_s
    )


def the(found: list[Finding], area: Area, level: Level | None = None) -> Finding:
    """The only finding of its area (and level)."""
    (finding,) = [f for f in found if f.area is area and level in {None, f.level}]
    return finding


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as embedded:
        yield embedded


@asynccontextmanager
async def pretending_worker(
    broker: EmbeddedBroker, *, commit: bool, dead: bool = False
) -> AsyncIterator[None]:
    """A member of the group that stores nothing: commits or not, dead-letters or not."""
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers)

    async def work() -> None:
        async for record in consumer:
            if dead:
                why = [("dlq.reason", b"refused"), ("dlq.message", b"because")]
                await producer.send_and_wait(f"{TOPIC}.dlq", b"", key=record.key, headers=why)
            if commit:
                await consumer.commit()

    async with consumer, producer:
        working = asyncio.create_task(work())
        yield
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


@asynccontextmanager
async def refusing_broker(mechanism: str) -> AsyncIterator[str]:
    """Offers one SASL mechanism and refuses everybody's password."""
    refused = "bad user or password: pa55word"
    answers = {
        18: ApiVersionResponse_v0(0, [(17, 1, 1), (18, 0, 0), (36, 1, 1)]),
        17: SaslHandShakeResponse_v1(0 if mechanism == "PLAIN" else 33, [mechanism]),
        36: SaslAuthenticateResponse_v1(58, refused, b"", 0),
    }

    conversations: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while size := int.from_bytes(await reader.readexactly(4), "big"):
                request = await reader.readexactly(size)
                answer = answers[int.from_bytes(request[:2], "big")].encode()
                writer.write((len(answer) + 4).to_bytes(4, "big") + request[4:8] + answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*filter(None, conversations))


async def test_nothing_is_set() -> None:
    found = await examined("")
    assert [finding.area for finding in found] == [Area.SETTINGS, Area.SETTINGS]
    assert "bootstrap_servers" in found[0].text
    assert "tracking_uri" in found[1].text


async def test_the_archive_of_the_settings_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(
        mlflow=MlflowSettings(tracking_uri=f"sqlite:///{tmp_path}/to-come.db"),
        archive=ArchivePolicy(location=f"file://{tmp_path}/file/traces"),
    )
    found = await examine(
        settings, record_bytes_max=RECORD_BYTES_MAX, connect_s=5.0, crossing_s=1.0
    )
    assert "is not there yet" in the(found, Area.MLFLOW, Level.NOTE).text
    assert "it is no folder" in the(found, Area.MLFLOW, Level.PROBLEM).text


async def test_servers_that_are_no_addresses_and_one_that_is_down() -> None:
    found = await examined("kafka,127.0.0.1:1")
    assert "'kafka'" in found[0].text
    assert the(found, Area.BROKER).text == "nothing listens on 127.0.0.1:1"


async def test_one_broker_of_two_is_enough(broker: EmbeddedBroker) -> None:
    found = await examined(f"127.0.0.1:1,{broker.bootstrap_servers}")
    assert the(found, Area.BROKER, Level.NOTE).text == "nothing listens on 127.0.0.1:1"
    assert not [f for f in found if f.area is Area.BROKER and f.level is Level.PROBLEM]


async def test_something_else_on_the_brokers_port() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        found = await examined(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert "does not speak Kafka over PLAINTEXT" in the(found, Area.BROKER).text


async def test_a_port_that_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{silent.getsockname()[1]}")
        found = await examine(
            Settings(kafka=kafka), record_bytes_max=RECORD_BYTES_MAX, connect_s=0.5, crossing_s=1
        )
    assert "does not speak Kafka" in the(found, Area.BROKER).text


async def signed_in(bootstrap_servers: str, protocol: str) -> list[Finding]:
    kafka = KafkaSettings(
        bootstrap_servers=bootstrap_servers,
        security_protocol=protocol,  # type: ignore[arg-type]
        sasl_username="ann" if "SASL" in protocol else None,
        sasl_password="pa55word" if "SASL" in protocol else None,
    )
    found = await examine(
        Settings(kafka=kafka), record_bytes_max=RECORD_BYTES_MAX, connect_s=5, crossing_s=1
    )
    assert "pa55word" not in str(found)
    return found


@pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "SASL_SSL"])
async def test_the_wrong_security_protocol(broker: EmbeddedBroker, protocol: str) -> None:
    found = await signed_in(broker.bootstrap_servers, protocol)
    assert f"does not speak Kafka over {protocol}" in the(found, Area.BROKER).text


@pytest.mark.parametrize(
    ("mechanism", "text"),
    [("PLAIN", "refuses user name or password"), ("SCRAM-SHA-512", "SASL mechanism")],
)
async def test_a_broker_that_does_not_let_us_in(mechanism: str, text: str) -> None:
    async with refusing_broker(mechanism) as bootstrap_servers:
        found = await signed_in(bootstrap_servers, "SASL_PLAINTEXT")
    finding = the(found, Area.BROKER)
    assert text in finding.text
    assert "kafka.sasl_" in (finding.remedy or "")


async def test_a_missing_topic_ends_the_crossing_before_it_begins(broker: EmbeddedBroker) -> None:
    found = await examined(broker.bootstrap_servers)
    assert "does not exist" in the(found, Area.TOPIC).text
    assert not [finding for finding in found if finding.area is Area.CROSSING]


async def test_without_a_worker_the_trace_waits_in_the_topic(broker: EmbeddedBroker) -> None:
    broker.create_topic(TOPIC, 3)
    found = await examined(broker.bootstrap_servers)
    assert "no worker runs" in the(found, Area.GROUP).text
    assert "no worker runs" in the(found, Area.CROSSING).text
    assert the(found, Area.CROSSING).level is Level.NOTE


async def test_a_topic_that_refuses_the_trace(broker: EmbeddedBroker) -> None:
    broker.create_topic(TOPIC, 1, {"max.message.bytes": "100"})
    found = await examined(broker.bootstrap_servers)
    assert "MessageSizeTooLarge" in the(found, Area.CROSSING).text


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("commit", "dead", "text"),
    [
        (True, False, "a worker has taken it"),
        (False, False, "no worker has taken it"),
        (True, True, "went to the dead letters (refused: because)"),
    ],
)
async def test_why_a_trace_is_not_stored(
    broker: EmbeddedBroker, mlflow_server: MlflowServer, commit: bool, dead: bool, text: str
) -> None:
    broker.create_topic(TOPIC, 1)
    broker.create_topic(f"{TOPIC}.dlq", 1)
    async with pretending_worker(broker, commit=commit, dead=dead):
        found = await examined(broker.bootstrap_servers, mlflow_server.uri, crossing_s=1)
    finding = the(found, Area.CROSSING)
    assert finding.level is Level.PROBLEM
    assert text in finding.text


@pytest.mark.kafka
@pytest.mark.mlflow
async def test_the_whole_way_through_the_real_parts(
    kafka: KafkaServer, mlflow_server: MlflowServer
) -> None:
    topic = f"doctor-{os.getpid()}"
    await asyncio.to_thread(kafka.create_topic, topic, 4)
    worker = SpanferryWorker(
        bootstrap_servers=kafka.bootstrap_servers,
        topic=topic,
        tracking_uri=mlflow_server.uri,
        group=GROUP,
        warm=True,
    )
    await asyncio.to_thread(worker.start)
    try:
        found = await examined(
            kafka.bootstrap_servers, mlflow_server.uri, topic=topic, crossing_s=30
        )
    finally:
        await asyncio.to_thread(worker.close)
    assert {finding.level for finding in found} == {Level.GOOD}, found
    assert "4 partitions" in the(found, Area.TOPIC).text
    assert "1 worker process" in the(found, Area.GROUP).text
    assert the(found, Area.CROSSING).text.endswith("complete")


@pytest.mark.kafka
async def test_a_real_topic_that_will_not_do(kafka: KafkaServer) -> None:
    topic = f"doctor-bad-{os.getpid()}"
    config = {"max.message.bytes": "5000", "cleanup.policy": "compact"}
    await asyncio.to_thread(kafka.create_topic, topic, 1, config)
    found = await examined(kafka.bootstrap_servers, topic=topic)
    texts = [finding.text for finding in found if finding.area is Area.TOPIC]
    assert "refuses records above 5,000 bytes" in texts[0]
    assert "is compacted" in texts[1]


def test_the_command_says_it_in_json_and_by_its_exit_code() -> None:
    command = [sys.executable, "-m", "spanferry_worker", "doctor", "--json"]
    command += ["--bootstrap-servers=127.0.0.1:1", "--tracking-uri=http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    content = json.loads(done.stdout)
    assert done.returncode == 1
    assert done.stderr == ""
    assert [finding["level"] for finding in content["findings"]] == ["problem", "problem"]
