"""Giants, crowds and outages: neighbours go on, nothing grows without bound, nothing is lost."""

import asyncio

import pytest

from spanferry_schemas import End, encode_fragment, encode_span
from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.stages.giants import OVERLOAD_KEY
from spanferry_worker.testing import MemorySink
from tests.worker.events import fragment, number, send, span, whole
from tests.worker.runtime.harness import Harness, sample, until

MB = 1024 * 1024
GIANT = 1


def small(harness: Harness, count: int, first: int = 1_000) -> list[bytes]:
    """Neighbours, in every partition; their ids."""
    for trace_id in range(first, first + count):
        send(harness.broker, whole(trace_id))
    return [number(trace_id) for trace_id in range(first, first + count)]


async def test_a_trace_of_two_hundred_megabytes_is_cut_and_its_neighbours_do_not_wait():
    harness = Harness(partitions=1, assemble__idle_s=60)
    records, size = 230, 880_000
    neighbours: list[bytes] = []
    for name in range(1, records + 1):
        send(harness.broker, fragment(GIANT, [span(name, payload=size)]))
        neighbours += small(harness, 2, first=1_000 + 2 * name)
    async with harness.running() as worker:
        await until(lambda: set(neighbours) <= set(harness.sink.stored), timeout_s=60)
        assert number(GIANT) not in harness.sink.stored, "they were not to wait for it"
        assert worker.lanes.held_bytes <= 128 * MB
        assert sample(worker, "assemble_cut_total") == 1
        send(harness.broker, fragment(GIANT, [], end=End(records)))
        await until(harness.all_committed, timeout_s=60)
    giant = harness.sink.stored[number(GIANT)]
    assert (len(giant.spans), giant.complete, giant.writes) == (records, True, 1)
    assert giant.trace.metadata[OVERLOAD_KEY] == "skeleton"
    assert all(len(each.attributes["mlflow.spanInputs"]) < 2_000 for each in giant.spans.values())
    assert harness.letters.letters == []


async def test_fifty_thousand_spans_of_one_trace_and_its_neighbours():
    harness = Harness(partitions=1, assemble__idle_s=60)
    count, step = 50_000, 500
    for first in range(1, count, step):
        some = [span(name, payload=100) for name in range(first, first + step)]
        send(harness.broker, fragment(GIANT, some))
    neighbours = small(harness, 50)
    async with harness.running():
        await until(lambda: set(neighbours) <= set(harness.sink.stored), timeout_s=60)
        assert number(GIANT) not in harness.sink.stored
        send(harness.broker, fragment(GIANT, [], end=End(count)))
        await until(harness.all_committed, timeout_s=60)
    giant = harness.sink.stored[number(GIANT)]
    assert (len(giant.spans), giant.complete, giant.writes) == (count, True, 1)
    assert OVERLOAD_KEY not in giant.trace.metadata


async def test_a_hundred_thousand_open_traces_and_their_neighbours():
    """They take more than open traces may as objects, and less folded: none is written before its time."""
    harness = Harness(
        partitions=4, assemble__idle_s=600, assemble__age_s=600, write__batch_traces_max=200
    )
    crowd = 100_000
    started = [encode_span(span(1))]
    for trace_id in map(number, range(10_000, 10_000 + crowd)):
        harness.broker.produce(encode_fragment(trace_id, started), key=trace_id)
    neighbours = small(harness, 100)
    async with harness.running() as worker:
        await until(lambda: set(neighbours) <= set(harness.sink.stored), timeout_s=100)
        assert worker.lanes.held_bytes <= 128 * MB
        assert sum(lane.assembler.held_traces for lane in worker.lanes) == crowd
        assert sample(worker, "assemble_finished_total", reason="memory") == 0
        for trace_id in range(10_000, 10_000 + crowd, 100):
            send(harness.broker, fragment(trace_id, [span(2)], end=End(2)))
        wanted = [number(trace_id) for trace_id in range(10_000, 10_000 + crowd, 100)]
        await until(lambda: all(is_whole(harness.sink, each) for each in wanted), timeout_s=60)


async def test_a_crowd_that_is_due_at_once_goes_as_it_can_be_written():
    """Whoever comes meanwhile waits for a few batches, not for the crowd."""
    harness = Harness(partitions=2, assemble__idle_s=1, write__batch_traces_max=10)
    crowd = 1_500
    started = [encode_span(span(1))]
    for trace_id in map(number, range(10_000, 10_000 + crowd)):
        harness.broker.produce(encode_fragment(trace_id, started), key=trace_id)
    harness.sink.delay_s = 0.02
    async with harness.running() as worker:
        await until(lambda: len(harness.sink.stored) > 100)
        neighbours = small(harness, 20)
        await until(lambda: set(neighbours) <= set(harness.sink.stored))
        before = len(harness.sink.stored)
        assert before < crowd / 2, "they have waited for the crowd"
        assert worker.writer.queue.held_traces <= 10 * (harness.sink.concurrency + 1) + 20
        await until(harness.all_committed, timeout_s=60)
    assert len(harness.sink.stored) == crowd + 20


def is_whole(sink: MemorySink, trace_id: bytes) -> bool:
    stored = sink.stored.get(trace_id)
    return stored is not None and stored.complete and len(stored.spans) == 2


async def test_what_takes_most_of_its_memory_as_objects_is_bounded_as_well():
    """Spans without payload: their records alone would fill a small part of the bound."""
    harness = Harness(
        partitions=1,
        assemble__idle_s=60,
        consume__held_bytes_max=4 * MB,
        consume__poll_bytes_max=MB,
        assemble__bytes_max=MB,
        decode__chunk_bytes_max=MB,
    )
    harness.sink.blocked.clear()
    for trace_id in range(1_000):
        spans = [span(name, attributes={}) for name in range(1, 21)]
        send(harness.broker, fragment(trace_id, spans, end=End(20)))
    async with harness.running() as worker:
        await until(lambda: worker.intake.waiting)
        await asyncio.sleep(0.1)
        assert worker.intake.held_bytes < 8 * MB
        read = sample(worker, "consume_bytes_total")
        assert read < 0.5 * MB, "of 4 MB in memory"
        harness.sink.blocked.set()
        await until(harness.all_committed)
    assert len(harness.sink.stored) == 1_000


async def test_a_process_that_takes_much_itself_holds_less():
    """The limit is the process's: what is loaded when the store is open is taken off."""
    harness = Harness(
        partitions=1,
        assemble__idle_s=60,
        process__memory_bytes_max=100 * MB,
        consume__poll_bytes_max=MB,
    )
    harness.sink.blocked.clear()
    for trace_id in range(1_000):
        send(harness.broker, whole(trace_id, payload=10_000))
    pipeline = harness.pipeline(resident_bytes=lambda: 98 * MB)
    async with harness.running(pipeline) as worker:
        await until(lambda: worker.intake.waiting)
        await asyncio.sleep(0.1)
        assert sample(worker, "consume_held_limit_bytes") == 2 * MB
        assert 2 * MB < worker.intake.held_bytes < 5 * MB
        harness.sink.blocked.set()
        await until(harness.all_committed)
    assert len(harness.sink.stored) == 1_000


async def test_a_limit_that_leaves_nothing_to_hold_is_refused_with_what_is_needed():
    harness = Harness(process__memory_bytes_max=100 * MB, consume__poll_bytes_max=MB)
    pipeline = harness.pipeline(resident_bytes=lambda: 99 * MB + 1)
    with pytest.raises(FatalError, match=rf"memory_bytes_max=.* give it {100 * MB + 1} or more"):
        await pipeline.run()


async def test_without_a_limit_of_ones_own_a_large_process_still_starts():
    """Nobody has set what is too little here: one poll is held, and the log says so."""
    harness = Harness(consume__poll_bytes_max=MB)
    send(harness.broker, whole(1))
    pipeline = harness.pipeline(resident_bytes=lambda: 2_000 * MB)
    async with harness.running(pipeline) as worker:
        await until(harness.all_committed)
        assert sample(worker, "consume_held_limit_bytes") == MB


async def test_unfinished_traces_leave_though_complete_ones_fill_the_queue():
    """Else none would, as long as the store is slower than what comes, and no commit would move."""
    harness = Harness(partitions=1, assemble__idle_s=0.3, write__batch_traces_max=10)
    harness.sink.blocked.clear()
    send(harness.broker, fragment(GIANT, [span(1)]))
    small(harness, 500)
    async with harness.running() as worker:
        await until(lambda: worker.writer.queue.held_traces >= 500)
        await until(lambda: worker.writer.queue.held_unfinished == 1)
        harness.sink.blocked.set()
        await until(harness.all_committed)


class Probed(MemorySink):
    """Counts how many calls are out at once, while it is away and after."""

    def __init__(self) -> None:
        super().__init__(concurrency=4)
        self.away = False
        self.out = 0
        self.most = {True: 0, False: 0}
        self.order: list[int] = []

    async def write(self, batch) -> None:
        self.out += 1
        self.most[self.away] = max(self.most[self.away], self.out)
        self.order.append(self.out)
        try:
            if self.away:
                await asyncio.sleep(0.002)
                raise TransientError("the store is away")
            await asyncio.sleep(0.005)
            await super().write(batch)
        finally:
            self.out -= 1


async def test_a_store_that_was_away_is_not_met_by_a_stampede():
    harness = Harness(
        partitions=4,
        write__batch_traces_max=5,
        write__linger_s=0,
        retry__retry_initial_s=0.001,
        retry__retry_max_s=0.02,
    )
    harness.sink = sink = Probed()
    sent = small(harness, 200)
    async with harness.running() as worker:
        await until(lambda: len(sink.stored) > 20)
        sink.away = True
        await until(lambda: worker.writer.failing_since_ms and worker.writer.pace.running == 0)
        sent += small(harness, 400, first=5_000)
        sink.most[True] = 0
        calls = len(sink.order)
        await until(lambda: len(sink.order) > calls + 20)
        assert sink.most[True] == 1, "one at a time asks whether it is there"
        await until(lambda: sink.out == 0)
        calls = len(sink.order)
        sink.away = False
        await until(harness.all_committed)
    assert sink.order[calls] == 1
    assert sink.order[calls + 1] <= 2
    assert sink.order[calls + 2] <= 3
    assert max(sink.order[calls:]) == 4, "it ends with as many at once as before"
    assert set(sent) <= set(sink.stored)
    assert harness.letters.letters == []
