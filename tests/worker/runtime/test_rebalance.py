"""Partitions that come and go, workers that die: every trace is stored, and once."""

import asyncio
import random

import pytest

from spanferry_schemas import End
from spanferry_worker.errors import TransientError
from spanferry_worker.runtime.lanes import Gained, Lane
from spanferry_worker.stages.accounts import Outcome
from spanferry_worker.stages.consume import Room
from spanferry_worker.stages.note import read_note, write_note
from spanferry_worker.testing import MemoryLog
from tests.worker.events import fragment, number, record, send, span, whole
from tests.worker.runtime.harness import Harness, sample, until

pytestmark = pytest.mark.both_loops


async def test_a_second_worker_joins_and_leaves():
    harness = Harness(partitions=4)
    for trace_id in range(100):
        send(harness.broker, whole(trace_id))
    async with harness.running() as first:
        await until(lambda: len(harness.sink.stored) > 20)
        async with harness.running() as second:
            await until(lambda: len(first.lanes.partitions) == len(second.lanes.partitions) == 2)
            for trace_id in range(100, 200):
                send(harness.broker, whole(trace_id))
            await until(lambda: len(harness.sink.stored) == 200)
        await until(lambda: len(first.lanes.partitions) == 4)
        await until(harness.all_committed)
    assert all(len(stored.spans) == 3 for stored in harness.sink.stored.values())


async def test_what_is_decided_is_written_and_committed_before_the_partition_goes():
    harness = Harness(partitions=1, write__linger_s=60, commit__interval_s=60, assemble__idle_s=60)
    for trace_id in range(5):
        send(harness.broker, whole(trace_id))
    send(harness.broker, fragment(9, [span(1)]))
    async with harness.running() as first:
        await until(lambda: first.writer.held_bytes)
        await harness.broker.leave(MemoryLog(harness.broker))
        log = first._parts.log
        await log.lose()
        assert len(harness.sink.stored) == 5
        assert list(harness.broker.committed.values()) == [5]
        assert first.lanes.held_bytes == 0
        assert first.writer.held_bytes == 0


async def test_the_open_trace_goes_over_to_the_new_owner():
    harness = Harness(partitions=1, assemble__idle_s=60)
    send(harness.broker, fragment(1, [span(1)]))
    async with harness.running() as first:
        await until(lambda: first.lanes.held_bytes)
    send(harness.broker, fragment(1, [span(2)], end=End(2)))
    async with harness.running():
        await until(harness.all_committed)
    stored = harness.sink.stored[number(1)]
    assert (len(stored.spans), stored.complete, stored.writes) == (2, True, 1)


async def test_what_is_decided_above_the_watermark_is_not_written_again_and_holds_nobody_up():
    """The end of a trace whose begin lies below the watermark would wait for that in vain."""
    harness = Harness(partitions=1, assemble__idle_s=60)
    send(harness.broker, fragment(1, [span(1), span(2)]))
    send(harness.broker, fragment(2, [span(1)]))
    send(harness.broker, fragment(1, [span(3)], end=End(3)))
    send(harness.broker, whole(3))
    async with harness.running():
        await until(lambda: len(harness.sink.stored) == 2)
    [partition] = harness.broker.partitions
    assert harness.broker.committed[partition] == 1
    send(harness.broker, fragment(2, [span(2)], end=End(2)))
    async with harness.running():
        await until(harness.all_committed)
    assert {trace.writes for trace in harness.sink.stored.values()} == {1}
    assert all(trace.complete for trace in harness.sink.stored.values())


async def test_news_are_committed_also_where_the_watermark_stands():
    harness = Harness(partitions=1, assemble__idle_s=60)
    send(harness.broker, fragment(1, [span(1)]))
    async with harness.running() as worker:
        for trace_id in (2, 3):
            send(harness.broker, whole(trace_id))
            await until(
                lambda count=trace_id: len(harness.broker.notes) and _noted(harness) == count - 1
            )
        lane = worker.lanes.of(harness.broker.partitions[0])
        assert lane.committed == 0


def _noted(harness: Harness) -> int:
    """How many records are noted as stored above what is committed."""
    [partition] = harness.broker.partitions
    decided = read_note(harness.broker.committed[partition], harness.broker.notes[partition])
    return 0 if decided is None else decided.outcomes.count(Outcome.STORED)


async def test_notes_that_are_known_only_once_records_were_read_still_count():
    harness = Harness(partitions=1, assemble__idle_s=60)
    lane = Lane(harness.broker.partitions[0], harness.settings, Room(harness.settings.consume))
    records = [record(whole(n), offset=n) for n in range(3)]
    lane.take(records[:2], 0, Gained())
    lane.go_on(0, write_note(bytes([Outcome.STORED] * 3)))
    assert lane.tracker.watermark() == 2
    gained = Gained()
    lane.take(records[2:], 0, gained)
    assert (gained.traces, lane.tracker.watermark()) == ([], 3)


async def test_a_write_that_returns_after_its_partition_was_lost_commits_nothing():
    harness = Harness(partitions=1, consume__revoke_flush_s=0.1)
    harness.sink.blocked.clear()
    send(harness.broker, whole(1))
    send(harness.broker, fragment(2, [span(1)]))
    async with harness.running() as first:
        await until(lambda: harness.sink.calls)
        log = first._parts.log
        await log.lose()
        log.gain(harness.broker.partitions)
        harness.sink.blocked.set()
        await until(lambda: len(harness.sink.stored) == 2)
        await until(harness.all_committed)
    assert harness.sink.stored[number(1)].writes == 2


async def test_a_batch_that_lost_one_partition_is_still_written_for_the_other():
    harness = Harness(partitions=2, consume__revoke_flush_s=0.1, write__batch_traces_max=50)
    harness.sink.transient_failures = 10**9
    zero, one = harness.broker.partitions
    for trace_id in (1, 2):
        send(harness.broker, whole(trace_id), partition=trace_id - 1)
    async with harness.running() as worker:
        await until(lambda: worker.writer.failing_since_ms)
        await worker.revoked(frozenset({zero}))
        calls = harness.sink.calls
        await until(lambda: harness.sink.calls > calls)  # the call that was under way is over
        harness.sink.transient_failures = 0
        await until(lambda: harness.broker.committed.get(one) == 1)
        assert set(harness.sink.stored) == {number(2)}
        assert harness.broker.committed.get(zero, 0) == 0


async def test_a_commit_that_is_refused_forgets_the_partitions():
    harness = Harness(partitions=1, assemble__idle_s=60)
    send(harness.broker, whole(1))
    async with harness.running() as worker:
        await until(harness.all_committed)
        log = worker._parts.log
        log._positions.clear()  # the group went on without us, and we do not know yet
        lane = worker.lanes.of(harness.broker.partitions[0])
        lane.committed = 0
        assert await worker.committer.commit() is False
        assert worker.lanes.partitions == frozenset()
        log.gain(harness.broker.partitions)
        send(harness.broker, whole(2))
        await until(harness.all_committed)
    assert len(harness.sink.stored) == 2


async def test_partitions_given_up_but_still_delivered_are_taken_anew():
    """A client that does not find out by itself that it is out of the group would stand for ever."""
    harness = Harness(partitions=1, assemble__idle_s=60, consume__stall_s=0.2)
    async with harness.running() as worker:
        await until(lambda: worker.lanes.partitions)
        worker.lanes.close(worker.lanes.partitions)  # as after a refused commit
        send(harness.broker, whole(1))
        await until(harness.all_committed)
    assert set(harness.sink.stored) == {number(1)}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_dies_every_trace_is_stored_once(seed: int):
    """Workers killed in the middle of everything, while fragments and chunks keep coming."""
    chance = random.Random(seed)
    harness = Harness(partitions=3, assemble__idle_s=1.0, decode__chunk_age_s=1.0)
    harness.sink.delay_s = 0.002
    sent: set[bytes] = set()

    def produce(trace_id: int) -> None:
        sent.add(number(trace_id))
        match chance.randrange(3):
            case 0:
                send(harness.broker, whole(trace_id, 3))
            case 1:
                send(harness.broker, fragment(trace_id, [span(2), span(3)]))
                send(harness.broker, fragment(trace_id, [span(1)], end=End(3)))
            case _:
                event = whole(trace_id, 3, payload=3_000)
                send(harness.broker, event, record_bytes_max=1_500)

    for round_ in range(6):
        worker = harness.pipeline()
        task = asyncio.ensure_future(worker.run())
        for trace_id in range(round_ * 50, round_ * 50 + 50):
            produce(trace_id)
            if chance.random() < 0.1:
                await asyncio.sleep(0.003)
        await asyncio.sleep(chance.random() * 0.05)
        task.cancel()  # as dead as a task can be: nothing is written or committed any more
        await asyncio.gather(task, return_exceptions=True)
    async with harness.running():
        await until(harness.all_committed)
    assert set(harness.sink.stored) == sent
    assert all(len(stored.spans) == 3 for stored in harness.sink.stored.values())
    assert harness.letters.letters == []


class Mute(MemoryLog):
    """Tells nothing: no records, and not how many there are."""

    mute = True

    async def lag(self):
        if self.mute:
            raise TransientError("no answer")
        return await super().lag()


async def test_a_client_that_tells_nothing_is_made_anew():
    harness = Harness(partitions=1, consume__stall_s=0.2)
    log = Mute(harness.broker)
    log.deaf = True
    send(harness.broker, whole(1))
    async with harness.running(harness.pipeline(log=log)) as worker:
        await until(lambda: log.opened == 2)
        log.mute = log.deaf = False
        await until(harness.all_committed)
        assert sample(worker, "consume_stalls_total", stage="consume") >= 1


class Left(MemoryLog):
    """The group deals out nothing to it until it joins for the second time."""

    def gain(self, partitions):
        if self.opened > 1:
            super().gain(partitions)


async def test_a_member_that_the_group_has_forgotten_joins_anew():
    harness = Harness(
        partitions=1,
        consume__stall_s=0.2,
        consume__revoke_flush_s=0.1,
        kafka__rebalance_timeout_s=0.2,
    )
    log = Left(harness.broker)
    send(harness.broker, whole(1))
    async with harness.running(harness.pipeline(log=log)) as worker:
        await until(harness.all_committed)
        assert log.opened == 2
        assert worker.lanes.joining_since_ms is None
        await asyncio.sleep(0.5)
        assert log.opened == 2, "a worker that has its partitions stays as it is"


async def test_a_worker_without_partitions_is_no_forgotten_member():
    """Where there are more workers than partitions the rest have none, and stay."""
    harness = Harness(
        partitions=1,
        consume__stall_s=0.2,
        consume__revoke_flush_s=0.1,
        kafka__rebalance_timeout_s=0.2,
    )
    logs = [MemoryLog(harness.broker) for _ in range(2)]
    async with (
        harness.running(harness.pipeline(log=logs[0])),
        harness.running(harness.pipeline(log=logs[1])),
    ):
        await asyncio.sleep(0.8)
        assert [log.opened for log in logs] == [1, 1]
