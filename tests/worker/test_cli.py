"""The command: usage, exit codes, one clear line for what can never work."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from spanferry_worker import cli
from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.telemetry import JsonFormatter, LogEvent, TextFormatter
from tests.services.kafka import KafkaServer


def spanferry(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "spanferry_worker", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | env,
        check=False,
    )


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("worker", "topics", "retention", "doctor", "dev", "demo"))


@pytest.mark.parametrize("command", ["worker", "topics", "retention", "doctor", "dev", "demo"])
def test_every_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: spanferry" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nothing"], ["topics"], ["worker", "--nothing"]])
def test_wrong_usage_is_code_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["worker"], "spanferry worker: kafka.bootstrap_servers is not set"),
        (["worker", "--bootstrap-servers", "h:1"], "spanferry worker: mlflow.tracking_uri is not"),
        (["worker", "--set", "nonsense"], "spanferry worker: --set nonsense: give it as"),
        (["worker", "--config", "/nowhere"], "spanferry worker: --config /nowhere: cannot be read"),
        (["topics", "create"], "spanferry topics: kafka.bootstrap_servers is not set"),
        (
            ["topics", "create", "--bootstrap-servers", "h:1", "--max-message-bytes", "9"],
            "spanferry topics: --partitions must",
        ),
    ],
)
def test_what_can_never_start_is_code_3_and_one_line(words, line, capsys):
    assert cli.main(words) == 3
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1


def test_a_tracking_uri_that_no_store_serves_is_code_3():
    ended = spanferry("worker", "--bootstrap-servers=h:1", "--tracking-uri=ftp://x")
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1].startswith("spanferry worker: the tracking URI 'ftp://x'")


def test_a_health_port_that_is_taken_is_code_3():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = spanferry(
            "worker",
            "--bootstrap-servers=127.0.0.1:9",
            "--tracking-uri=http://127.0.0.1:9",
            f"--health-port={port}",
        )
    assert ended.returncode == 3
    assert f"health.port {port}" in ended.stderr.splitlines()[-1]


def test_the_supervisor_gives_up_when_a_worker_can_never_start():
    ended = spanferry(
        "worker",
        "--bootstrap-servers=127.0.0.1:9",
        "--tracking-uri=ftp://x",
        "--processes=2",
        "--health-port=0",
    )
    assert ended.returncode == 3


def test_the_worker_starts_without_loading_what_it_does_not_need():
    code = (
        "import sys, spanferry_worker.cli, spanferry_worker.settings\n"
        "heavy = {'mlflow', 'aiokafka', 'uvloop', 'prometheus_client', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def create_thrice(bootstrap_servers: str, topic: str) -> None:
    words = ["topics", "create", f"--bootstrap-servers={bootstrap_servers}", f"--topic={topic}"]
    first = spanferry(*words, "--partitions=4")
    made = [f"{topic}{suffix}: created" for suffix in ("", ".dlq", ".ledger", ".sampling")]
    assert first.stdout.splitlines() == made, first.stderr
    again = spanferry(*words, "--partitions=4")
    assert f"{topic}: exists, 4 partitions, records up to 1048588 bytes, good" in again.stdout
    more = spanferry(*words, "--partitions=6")
    assert "4 partitions, 6 are wanted" in more.stdout
    assert (first.returncode, again.returncode, more.returncode) == (0, 0, 1)


async def test_a_policy_that_can_drop_has_one_topic_more(tmp_path: Path):
    file = tmp_path / "worker.toml"
    rules = "[[sample.rules]]\nname = 'all'\naction = 'drop'\n"
    await asyncio.to_thread(file.write_text, rules)
    async with EmbeddedBroker() as broker:
        servers = f"--bootstrap-servers={broker.bootstrap_servers}"
        words = ["topics", "create", servers, "--partitions=4", f"--config={file}"]
        made = await asyncio.to_thread(spanferry, *words)
    assert made.stdout.splitlines()[-1] == "spanferry.traces.dropped: created"


async def test_topics_are_created_once_and_checked_after():
    async with EmbeddedBroker() as broker:
        await asyncio.to_thread(create_thrice, broker.bootstrap_servers, "traces")


@pytest.mark.kafka
def test_topics_are_created_on_apache_kafka_too(kafka: KafkaServer):
    create_thrice(kafka.bootstrap_servers, f"cli-{uuid.uuid4().hex[:8]}")


def test_topics_of_a_broker_that_is_not_there(capsys):
    assert cli.main(["topics", "create", "--bootstrap-servers=127.0.0.1:9"]) == 1
    assert "cannot reach Kafka at 127.0.0.1:9" in capsys.readouterr().err


def log_record(**extra) -> logging.LogRecord:
    record = logging.makeLogRecord(
        {"name": "spanferry.x", "levelname": "WARNING", "msg": "%d gone", "args": (3,)}
    )
    record.__dict__.update(extra)
    return record


def test_json_logs_are_objects_with_their_fields():
    try:
        raise ValueError("why")
    except ValueError:
        record = log_record(partition=7, odd={1: object}, exc_info=sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"], line["partition"]) == ("warning", "3 gone", 7)
    assert "ValueError: why" in line["traceback"]


def test_the_event_is_a_field_for_machines_only():
    record = log_record(**LogEvent.CONSUME_PAUSED(held_bytes=7))
    line = json.loads(JsonFormatter().format(record))
    assert (line["event"], line["held_bytes"]) == ("consume.paused", 7)
    assert line["time"].endswith("Z")
    assert TextFormatter().format(record).endswith("3 gone  [held_bytes=7]")


def test_text_logs_end_with_their_fields():
    assert TextFormatter().format(log_record(partition=7)).endswith("3 gone  [partition=7]")
    assert TextFormatter().format(log_record()).endswith("3 gone")
