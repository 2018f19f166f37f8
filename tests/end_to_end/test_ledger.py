"""`spanferry ledger` adds up to what was produced, stored and dropped, whatever happens to workers."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from tests.end_to_end.store import wait_for_traces
from tests.end_to_end.test_crashes import some_stored
from tests.services.kafka import _administer

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.mlflow,
    pytest.mark.chaos,
    pytest.mark.timeout(400),
]


def ledger(pipeline, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and what is said."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "spanferry_worker",
            "ledger",
            "--json",
            f"--bootstrap-servers={pipeline.kafka.bootstrap_servers}",
            f"--topic={pipeline.topic}",
            f"--group={pipeline.group}",
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, json.loads(done.stdout)


def settled_ledger(pipeline, timeout_s: float = 150) -> tuple[int, dict[str, Any]]:
    """Once nothing is in flight."""
    deadline = time.monotonic() + timeout_s
    while True:
        code, said = ledger(pipeline)
        if not said["totals"]["in_flight"] or time.monotonic() > deadline:
            return code, said
        time.sleep(1)


def test_killed_workers_and_rebalances(pipelines, sqlite_uri, monkeypatch):
    """Two apps, one of which drops; two workers killed with -9; one that joins meanwhile."""
    pipeline = pipelines(sqlite_uri)
    count = 240
    first = pipeline.worker()
    app = pipeline.start_app(0, count, rate=60)
    some_stored(pipeline, 30)
    second = pipeline.worker()
    some_stored(pipeline, 80)
    first.kill()
    code, said = ledger(pipeline)
    assert (code, said["totals"]["missing"], said["totals"]["unaccounted"]) == (0, 0, 0), said
    pipeline.worker()
    some_stored(pipeline, 140)
    second.kill()
    account = pipeline.finish(app)
    assert account["traces_sent"] == count
    monkeypatch.setenv("SPANFERRY_BUFFER_BYTES", "1000000")
    poor = pipeline.run_app(count, 400)
    assert poor["parcels_dropped"] > 0, "nothing was dropped: the buffer is too large"
    stored = count + poor["traces_sent"]
    wait_for_traces(pipeline.tracking_uri, pipeline.experiment, stored, timeout_s=120)

    code, said = settled_ledger(pipeline)
    assert code == 0, said
    by_records = {one["stored"]: one for one in said["producers"]}
    for app_says in (account, poor):
        producer = by_records[app_says["records_sent"]]
        assert producer["dropped"] == app_says["parcels_dropped"]
        assert producer["produced"] == producer["stored"] + producer["dropped"]
        assert producer["report"]["ended"]
    totals = said["totals"]
    assert totals["stored"] == account["records_sent"] + poor["records_sent"]
    assert [totals[name] for name in ("missing", "unaccounted", "in_flight", "sampled")] == [0] * 4


def test_a_record_that_is_not_there_is_named(pipeline):
    """Kafka has removed what no worker had read: exit code 1, and how many, though nobody knows whose."""
    worker = pipeline.worker()
    pipeline.run_app(8, 60)
    wait_for_traces(pipeline.tracking_uri, pipeline.experiment, 60, timeout_s=60)
    code, said = settled_ledger(pipeline)
    assert code == 0, said
    worker.kill()
    app = pipeline.run_app(80, 30)
    partitions = [TopicPartition(pipeline.topic, number) for number in range(4)]

    async def remove(admin: AIOKafkaAdminClient) -> None:
        await admin.delete_records(
            {place: RecordsToDelete(before_offset=-1) for place in partitions}
        )

    _administer(pipeline.kafka.bootstrap_servers, remove)
    code, said = ledger(pipeline)
    assert code == 1, said
    reports = 1
    assert sum(said["removed_unread"].values()) == app["records_sent"] + reports, said
