"""Where most would be dead the worker stops, and what it stops for stays where it is, at every start."""

import asyncio

import pytest

from spanferry_worker.errors import FatalError
from tests.worker.events import fragment, number, send, span, whole
from tests.worker.runtime.harness import Harness, sample, until

pytestmark = pytest.mark.both_loops

COUNT_MIN = 20
LONG = {
    "dead_letters__window": 100,
    "dead_letters__count_min": COUNT_MIN,
    "dead_letters__hold_s": 60,
}


def junk(harness: Harness, count: int) -> None:
    for _ in range(count):
        harness.broker.produce(b"\x07from another world")


def committed(harness: Harness) -> int:
    return sum(harness.broker.committed.values())


async def stops(harness: Harness) -> None:
    with pytest.raises(
        FatalError, match=r"dead letters \(.*Nothing more of it is sent or committed"
    ):
        await asyncio.wait_for(harness.pipeline().run(), 10)


@pytest.mark.parametrize("stage", ["decode", "write"])
async def test_when_most_would_be_dead_the_worker_stops_and_says_so(stage):
    harness = Harness(partitions=2, **LONG)
    if stage == "write":
        harness.sink.poison = lambda _: True
        for trace_id in range(300):
            send(harness.broker, whole(trace_id))
    else:
        junk(harness, 300)
    for _ in range(3):
        with pytest.raises(FatalError, match=f"dead letters \\({stage}.*dead_letters.ratio_max"):
            await asyncio.wait_for(harness.pipeline().run(), 10)
        assert harness.letters.letters == []
        assert committed(harness) == 0


async def test_junk_that_trickles_in_empties_no_topic_by_restarts():
    harness = Harness(partitions=1, **LONG)
    junk(harness, COUNT_MIN - 5)
    async with harness.running() as worker:
        await until(lambda: sample(worker, "consume_records_total") == COUNT_MIN - 5)
        await asyncio.sleep(0.1)
    assert (harness.letters.letters, committed(harness)) == ([], 0), (
        "a stop in order leaves it, too"
    )
    for _ in range(4):
        junk(harness, COUNT_MIN - 5)
        await stops(harness)
    assert (harness.letters.letters, committed(harness)) == ([], 0)
    harness = _with_settings(harness, dead_letters__ratio_max=1)
    async with harness.running():
        await until(harness.all_committed)
    assert len(harness.letters.letters) == 5 * (COUNT_MIN - 5), "each once, now that it is wanted"


async def test_stored_traces_that_are_passed_over_do_not_vouch_for_junk():
    """They were read before the restart; beside them the junk would be few."""
    harness = Harness(partitions=1, assemble__idle_s=60, **LONG)
    send(harness.broker, fragment(999, [span(1)]))
    for trace_id in range(2 * COUNT_MIN):
        send(harness.broker, whole(trace_id))
    async with harness.running():
        await until(lambda: len(harness.sink.stored) == 2 * COUNT_MIN)
    assert committed(harness) == 0, "the open trace has the watermark, the others are noted"
    junk(harness, COUNT_MIN + 5)
    await stops(harness)
    assert harness.letters.letters == []


async def test_a_lone_dead_one_waits_and_holds_up_no_stop():
    harness = Harness(partitions=1, dead_letters__hold_s=0.3)
    junk(harness, 1)
    began = asyncio.get_running_loop().time()
    async with harness.running() as worker:
        await until(lambda: worker.office.held_bytes)
        assert worker.office.idle.is_set()
        await until(harness.all_committed)
        assert worker.office.held_bytes == 0
    assert 0.3 <= asyncio.get_running_loop().time() - began < 5
    assert len(harness.letters.letters) == 1


async def test_what_waits_is_counted_once_though_its_partition_goes_and_comes_back():
    harness = Harness(partitions=1, **LONG)
    junk(harness, COUNT_MIN - 1)
    async with harness.running() as worker:
        for _ in range(3):
            await until(lambda: sample(worker, "dead_letters_ratio", stage="decode") == 1)
            await until(lambda: worker.office.held_bytes)
            await worker._parts.log.lose()
            worker._parts.log.gain(harness.broker.partitions)
        await asyncio.sleep(0.1)
    assert harness.letters.letters == []


async def test_among_many_good_ones_none_waits():
    harness = Harness(partitions=1, **LONG)
    for trace_id in range(10 * COUNT_MIN):
        send(harness.broker, whole(trace_id))
        if trace_id % 5 == 0:
            harness.broker.produce(b"\x07from another world", key=number(trace_id))
    async with harness.running():
        await until(harness.all_committed)
    assert len(harness.letters.letters) == 2 * COUNT_MIN


def _with_settings(harness: Harness, **changes: object) -> Harness:
    """The same broker, store and dead letters."""
    other = Harness(partitions=1, **(LONG | changes))
    other.broker, other.sink, other.letters = harness.broker, harness.sink, harness.letters
    other.ledger = harness.ledger
    return other
