"""A topic of which nothing can be read: real workers stop, and leave it as it is until they are told."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from spanferry_worker.runtime.lifecycle import FATAL_EXIT_CODE
from tests.end_to_end.conftest import QUICK_SESSION, Pipeline
from tests.producer.topic import read_topic
from tests.services.process import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow, pytest.mark.chaos]

COUNT = 300


async def produce_junk(pipeline: Pipeline) -> None:
    async with AIOKafkaProducer(bootstrap_servers=pipeline.kafka.bootstrap_servers) as producer:
        for _ in range(COUNT):
            await producer.send(pipeline.topic, b"\x07from another world", key=os.urandom(16))


async def committed(pipeline: Pipeline) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.kafka.bootstrap_servers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(pipeline.group)
    finally:
        await admin.close()
    return sum(max(0, one.offset) for one in found.values())


def letters(pipeline: Pipeline) -> list[Any]:
    return read_topic(pipeline.kafka.bootstrap_servers, f"{pipeline.topic}.dlq")


def run_to_its_end(pipeline: Pipeline, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and what was logged; not before every process that holds its stderr is gone."""
    words = [
        f"--bootstrap-servers={pipeline.kafka.bootstrap_servers}",
        f"--topic={pipeline.topic}",
        f"--group={pipeline.group}",
        f"--tracking-uri={pipeline.tracking_uri}",
        f"--health-port={free_port()}",
        "--log-format=json",
        *QUICK_SESSION,
        *options,
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "spanferry_worker", "worker", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    lines = ended.stderr.splitlines()
    return ended.returncode, [json.loads(line) for line in lines if line.startswith("{")]


async def assert_untouched(pipeline: Pipeline) -> None:
    assert await asyncio.to_thread(letters, pipeline) == []
    assert await committed(pipeline) == 0


async def test_a_topic_of_junk_stops_all_processes_and_stays_as_it_is(pipeline: Pipeline):
    await produce_junk(pipeline)
    code, lines = await asyncio.to_thread(run_to_its_end, pipeline, "--processes=2")
    assert code == FATAL_EXIT_CODE
    fatal = [line for line in lines if line.get("event") == "worker.fatal"]
    assert all("would go to the dead letters (decode: " in line["message"] for line in fatal)
    assert fatal
    assert not [line for line in lines if line.get("event") == "supervisor.process_ended"]
    await assert_untouched(pipeline)
    await asyncio.to_thread(pipeline.worker, "--set=dead_letters.ratio_max=1", ready=False)
    async with asyncio.timeout(120):
        while await committed(pipeline) < COUNT:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.3)
    found = await asyncio.to_thread(letters, pipeline)
    assert len({letter.key for letter in found}) == len(found) == COUNT
