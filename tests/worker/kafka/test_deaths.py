"""Workers on Apache Kafka that are killed, join and leave: an account of every trace and span."""

import asyncio
import os
import random
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from spanferry_schemas import End, encode, split_value
from tests.services.kafka import KafkaServer
from tests.services.process import GuardedProcess, free_port
from tests.worker.events import fragment, header, number, span, whole
from tests.worker.kafka.journal import journal
from tests.worker.runtime.harness import until

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

PARTITIONS = 4
STILL_S = 10.0
"""Longer than a worker's session here, which is 6 s."""


class Scene:
    """A topic, a journal, and workers that come and go."""

    def __init__(self, kafka: KafkaServer, folder: Path) -> None:
        self.bootstrap_servers = kafka.bootstrap_servers
        self.topic = kafka.create_topic(f"deaths-{uuid.uuid4().hex[:8]}", PARTITIONS)
        self.group = f"{self.topic}-group"
        self.folder = folder
        self.path = folder / "journal"
        self.workers: list[GuardedProcess] = []
        self.expected: dict[str, int] = {}

    def start_worker(self, *, delay_s: float = 0.005, **changes: object) -> GuardedProcess:
        settings = {
            "bootstrap_servers": self.bootstrap_servers,
            "topic": self.topic,
            "group": self.group,
            "health_port": free_port(),
            "kafka.session_timeout_s": 6,
            "kafka.heartbeat_s": 0.5,
            "commit.interval_s": 0.1,
            "write.batch_traces_max": 20,
            "write.linger_s": 0.02,
            "assemble.idle_s": 5,
            "decode.chunk_age_s": 20,
        } | changes
        worker = GuardedProcess(
            [
                sys.executable,
                "-m",
                "tests.worker.kafka.journal",
                self.path,
                str(delay_s),
                *(f"{key}={value}" for key, value in settings.items()),
            ],
            log=self.folder / f"worker-{len(self.workers)}.log",
            env={"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        )
        worker.start()
        self.workers.append(worker)
        return worker

    async def produce(self, first: int, count: int) -> None:
        """Whole traces, traces in two fragments, and traces in chunks."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, linger_ms=5)
        await producer.start()
        sent = []
        try:
            for trace_id in range(first, first + count):
                self.expected[number(trace_id).hex()] = 3
                for value in values_of(trace_id):
                    key = number(trace_id)
                    sent.append(await producer.send(self.topic, value, key=key, headers=[header()]))
                await asyncio.sleep(0.001)
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    def stored(self) -> dict[str, set[str]]:
        spans: dict[str, set[str]] = {}
        for trace_id, ids, _, _ in journal(self.path):
            spans.setdefault(trace_id, set()).update(ids)
        return spans

    def all_there(self) -> bool:
        stored = self.stored()
        return len(stored) == len(self.expected) and all(len(s) == 3 for s in stored.values())

    async def committed(self) -> dict[TopicPartition, int]:
        """The group's offsets."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(self.group)
        finally:
            await admin.close()
        return {partition: one.offset for partition, one in found.items()}

    async def lag(self) -> int:
        """Records not committed yet."""
        committed = await self.committed()
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap_servers)
        await consumer.start()
        try:
            partitions = [TopicPartition(self.topic, n) for n in range(PARTITIONS)]
            ends = await consumer.end_offsets(partitions)
        finally:
            await consumer.stop()
        return sum(end - committed.get(p, 0) for p, end in ends.items())

    async def all_committed(self) -> None:
        """Wait for it."""
        async with asyncio.timeout(100):
            while await self.lag():  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.1)

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()

    def logs(self) -> str:
        return "\n".join(worker.log_tail(15) for worker in self.workers)


def values_of(trace_id: int) -> list[bytes]:
    match trace_id % 3:
        case 0:
            return [encode(whole(trace_id))]
        case 1:
            last = fragment(trace_id, [span(1)], end=End(3))
            return [encode(fragment(trace_id, [span(2), span(3)])), encode(last)]
        case _:
            cut = split_value(
                encode(whole(trace_id, payload=4_000)),
                trace_id=number(trace_id),
                group_id=os.urandom(8),
                record_bytes_max=3_000,
            )
            return list(cut)


@pytest.fixture
def scene(kafka: KafkaServer, tmp_path: Path) -> Iterator[Scene]:
    place = Scene(kafka, tmp_path)
    yield place
    place.close()


async def test_killed_again_and_again_nothing_is_lost(scene: Scene):
    chance = random.Random(5)
    committed = 0
    producing = asyncio.ensure_future(scene.produce(0, 3_000))
    for _ in range(3):
        worker = await asyncio.to_thread(scene.start_worker, delay_s=0.05)
        before = len(scene.stored())
        await until(lambda least=before + 50: len(scene.stored()) > least, timeout_s=40)
        # Its first commit waits for the ledger.
        async with asyncio.timeout(100):
            while sum((await scene.committed()).values()) <= committed:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(chance.random() * 0.3)
        worker.kill()
        committed = sum((await scene.committed()).values())
    await producing
    await asyncio.to_thread(scene.start_worker)
    await until(scene.all_there, timeout_s=60)
    await scene.all_committed()
    # Written again by the next worker is only what the dead one had not committed.
    writes = Counter(trace_id for trace_id, *_ in journal(scene.path))
    assert sum(writes.values()) < 2 * len(scene.expected), scene.logs()


async def test_a_second_worker_joins_and_leaves_and_nothing_is_lost_or_doubled(scene: Scene):
    await asyncio.to_thread(scene.start_worker)
    await scene.produce(0, 300)
    second = await asyncio.to_thread(scene.start_worker)
    producing = asyncio.ensure_future(scene.produce(300, 600))
    await until(lambda: "partitions assigned" in second.log_tail(100), timeout_s=60)
    await asyncio.sleep(2)
    await asyncio.to_thread(second.stop)
    await producing
    await until(scene.all_there, timeout_s=60)
    log = second.log_tail(100)
    assert "partitions assigned" in log
    assert "stopping" in log
    incomplete = [line for line in journal(scene.path) if not line[2]]
    assert incomplete == [], scene.logs()
    writes = Counter(trace_id for trace_id, *_ in journal(scene.path))
    assert max(writes.values()) <= 2
    assert sum(writes.values()) - len(writes) <= 30, (
        "a graceful hand-over writes almost nothing again"
    )


async def test_a_worker_stopped_in_order_leaves_nothing_to_repeat(scene: Scene):
    await scene.produce(0, 300)
    first = await asyncio.to_thread(scene.start_worker)
    await until(lambda: len(scene.stored()) > 50, timeout_s=40)
    await asyncio.to_thread(first.stop)
    await asyncio.to_thread(scene.start_worker)
    await until(scene.all_there, timeout_s=40)
    writes = Counter(trace_id for trace_id, *_ in journal(scene.path))
    assert set(writes.values()) == {1}, scene.logs()


async def test_a_worker_that_stood_still_for_longer_than_its_session(scene: Scene):
    """The other has gone on with its partitions meanwhile; what it holds of them it must not commit."""
    first = await asyncio.to_thread(scene.start_worker)
    await asyncio.to_thread(scene.start_worker)
    await scene.produce(0, 300)
    await until(scene.all_there, timeout_s=60)
    await scene.all_committed()
    await scene.produce(300, 100)
    joined = first.log_tail(100).count("partitions assigned")
    await asyncio.to_thread(first.pause)
    paused_at = asyncio.get_running_loop().time()
    for begin in range(400, 1_000, 100):
        await scene.produce(begin, 100)
        await asyncio.sleep(0.2)
    await until(scene.all_there, timeout_s=60)
    await scene.all_committed()
    committed = await scene.committed()
    await asyncio.sleep(max(0.0, paused_at + STILL_S - asyncio.get_running_loop().time()))
    first.resume()
    await until(lambda: first.log_tail(100).count("partitions assigned") > joined, timeout_s=60)
    await scene.produce(1_000, 200)
    await until(scene.all_there, timeout_s=60)
    await scene.all_committed()
    assert all(at >= committed[place] for place, at in (await scene.committed()).items())
    assert [line for line in journal(scene.path) if not line[2]] == [], scene.logs()
    writes = Counter(int(trace_id, 16) for trace_id, *_ in journal(scene.path))
    assert max(writes.values()) <= 2
    # What it had read, and the answer to the fetch that was under way, which lay in its socket.
    again = [number_ for number_, count in writes.items() if count > 1]
    assert all(300 <= number_ < 500 for number_ in again), again
