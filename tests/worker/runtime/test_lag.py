"""What is said of the lag: in records, in bytes, in seconds, and in several processes."""

from pathlib import Path

import pytest

from spanferry_schemas import encode
from spanferry_worker.runtime.exposition import merge_expositions
from spanferry_worker.runtime.pages import worker_pages
from spanferry_worker.services.memory import memory_limit_bytes
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.stages.consume import MeanSize
from spanferry_worker.testing import MemoryLog
from tests.worker.events import fragment, number, span, whole
from tests.worker.runtime.harness import Harness, sample, until


class Behind(MemoryLog):
    """Its broker says that more waits than was ever polled."""

    waiting = 0

    async def lag(self):
        return dict.fromkeys(await super().lag(), self.waiting)


def produce(harness: Harness, *, ago_s: float, whole_trace: bool = True) -> int:
    """One record of some time ago in partition 0; its size."""
    event = whole(7) if whole_trace else fragment(8, [span(1)])
    value = encode(event)
    key, stamp = event.trace_id, harness.clock.now_ms() - int(ago_s * 1000)
    harness.broker.produce(value, key=key, timestamp_ms=stamp, partition=0)
    return len(value)


async def test_lag_in_records_bytes_and_seconds():
    harness = Harness(partitions=1)
    log = Behind(harness.broker)
    size = produce(harness, ago_s=50)
    async with harness.running(harness.pipeline(log=log)) as worker:
        await until(harness.all_committed)
        await worker.watch.look()
        for name in ("records", "bytes", "seconds"):
            assert sample(worker, f"consume_lag_{name}", partition="0") == 0
        assert sample(worker, "commit_lag_seconds", partition="0") == 0
        log.waiting = 1000
        await worker.watch.look()
        assert sample(worker, "consume_lag_records", partition="0") == 1000
        assert sample(worker, "consume_lag_bytes", partition="0") == 1000 * size
        assert 50 <= sample(worker, "consume_lag_seconds", partition="0") < 80
        # Nothing that was read is open: what waits is at most as old as what was read last.
        assert 50 <= sample(worker, "commit_lag_seconds", partition="0") < 80


async def test_seconds_until_durable_count_from_the_oldest_open_record():
    harness = Harness(partitions=1, assemble__idle_s=200)
    produce(harness, ago_s=90, whole_trace=False)
    produce(harness, ago_s=20)
    async with harness.running() as worker:
        await until(lambda: number(7) in harness.sink.stored)
        await worker.watch.look()
        assert 90 <= sample(worker, "commit_lag_seconds", partition="0") < 120
        assert sample(worker, "consume_lag_seconds", partition="0") == 0
        assert sample(worker, "commit_undecided_records", partition="0") == 1


async def test_no_bytes_are_guessed_before_anything_was_read():
    harness = Harness(partitions=1)
    log = Behind(harness.broker)
    log.waiting = 5
    async with harness.running(harness.pipeline(log=log)) as worker:
        await until(lambda: worker.state == "ready")
        await worker.watch.look()
        page = worker._parts.metrics.exposition()
        assert b'consume_lag_records{partition="0"} 5.0' in page
        assert b"consume_lag_bytes{" not in page


async def test_a_partition_that_went_is_said_by_its_new_owner_only():
    harness = Harness(partitions=2)
    first, second = harness.pipeline(), harness.pipeline()
    async with harness.running(first):
        await until(lambda: first.state == "ready")
        await first.watch.look()
        async with harness.running(second):
            await until(lambda: second.lanes.partitions)
            await first.watch.look()
            await second.watch.look()
            pages = [
                (name, one._parts.metrics.exposition().decode())
                for name, one in (("0", first), ("1", second))
            ]
    lines = [line for line in merge_expositions(pages).splitlines() if "lag_records{" in line]
    assert len(lines) == 2
    assert {line.partition("partition=")[2][:3] for line in lines} == {'"0"', '"1"'}
    assert {line.partition("process=")[2][:3] for line in lines} == {'"0"', '"1"'}


async def test_readiness_and_a_failing_store_are_metrics():
    harness = Harness(partitions=1)
    worker = harness.pipeline()
    page = worker_pages(worker, worker._parts.metrics, harness.clock)["/metrics"]
    assert b"spanferry_worker_ready 0.0" in (await page()).body
    async with harness.running(worker):
        await until(lambda: worker.state == "ready")
        assert b"spanferry_worker_ready 1.0" in (await page()).body
        harness.sink.transient_failures = 10**9
        produce(harness, ago_s=0)
        await until(lambda: worker.writer.failing_since_ms)
        assert b"spanferry_worker_ready 0.0" in (await page()).body
        assert sample(worker, "write_failing_seconds") > 0
        harness.sink.transient_failures = 0
        await until(harness.all_committed)
        assert b"spanferry_worker_ready 1.0" in (await page()).body
        assert sample(worker, "write_failing_seconds") == 0


async def test_how_near_the_breaker_is():
    harness = Harness(partitions=1)
    harness.broker.produce(b"\xff", key=b"x")
    produce(harness, ago_s=0)
    async with harness.running() as worker:
        await until(harness.all_committed)
        assert sample(worker, "dead_letters_ratio", stage="decode") == 0.5


def test_the_mean_size_follows_what_was_read_last():
    sizes = MeanSize(window=100)
    assert sizes.mean_bytes is None
    sizes.saw(10, 1000)
    assert sizes.mean_bytes == 100
    for _ in range(100):
        sizes.saw(10, 10_000)
    assert sizes.mean_bytes is not None
    assert 999 < sizes.mean_bytes <= 1000


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", "2147483648\n", 2**31),
        ("memory.max", "max\n", 0),
        ("memory/memory.limit_in_bytes", "9223372036854771712", 0),
        ("memory/memory.limit_in_bytes", "1000000", 1_000_000),
    ],
)
def test_the_containers_limit(tmp_path: Path, name: str, text: str, limit: int):
    assert memory_limit_bytes(tmp_path) == 0
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert memory_limit_bytes(tmp_path) == limit


def test_memory_and_cpu_are_on_the_page():
    page = Metrics().exposition()
    assert b"process_resident_memory_bytes " in page
    assert b"process_cpu_seconds_total " in page
