"""What leaves the buffer becomes records: all of a trace or nothing, whatever interrupts it."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import spanferry
from spanferry import outlet as outlets
from spanferry.buffer import Buffer
from spanferry.client_stats import parcels_dropped, traces_dropped
from spanferry.lanes import Fate, Lanes, Ledger, Receipt
from spanferry.parcel import DropReason, Waiting
from spanferry.records import Record
from spanferry.settings import DropPolicy, Settings
from spanferry.spooling import Spooler
from spanferry.staging import Breath, Stager
from spanferry.trace_state import INCOMPLETE
from spanferry_schemas import Fragment, decode
from tests.producer.traffic import a_trace
from tests.spool.made import spool_in

PART_BYTES = 4_000
NAME = "mlflow.traceName"


class Small:
    """An outlet into a small buffer, and what the sender takes from there."""

    def __init__(self, bytes_max: int, policy: DropPolicy = DropPolicy.NEWEST) -> None:
        self.settings = Settings(
            bootstrap_servers="none:1", fragment_bytes=1_024, collect_environment=False
        )
        self.buffer = Buffer(bytes_max, policy)
        self.settled: list[Receipt] = []
        self.lanes = lanes = Lanes()
        lanes.open([0])
        self.ledger = Ledger(self._settle)
        self.stager = Stager(self.settings, self.buffer, lanes, self.ledger, Breath())

    def put(self, waiting: Waiting) -> bool:
        return self.buffer.put(waiting)

    def _settle(self, receipt: Receipt) -> None:
        self.settled.append(receipt)
        self.buffer.release(receipt.size)

    def sent(self) -> list[Fragment]:
        """All that waits, as the worker will read it."""
        return asyncio.run(self._sent())

    async def _sent(self) -> list[Fragment]:
        found: list[Fragment] = []
        while (taken := await self.stager.take()) is not None:
            receipt, records = taken
            for record in records:
                fragment = decode(record.value)
                assert isinstance(fragment, Fragment)
                found.append(fragment)
            self.ledger.finish(receipt)
        return found

    @property
    def dropped(self) -> tuple[int, int, int]:
        """Parcels, traces, and parcels that were dropped."""
        counts, drops = self.buffer.counts, self.stager.drops
        lost = sum(one.fate is Fate.DROPPED for one in self.settled)
        assert lost == sum(drops.parcels.values()) == drops.parcels["buffer_full"]
        return (
            counts.parcels,
            counts.dropped_traces + sum(drops.traces.values()),
            counts.dropped_full + lost,
        )


@pytest.fixture
def install(unsaid: None) -> Iterator[object]:
    before = outlets.current()
    yield outlets.install
    outlets.install(before)


def part() -> None:
    """A span that is handed over as soon as it has ended."""
    with spanferry.start_span("part") as span:
        span.set_inputs("x" * PART_BYTES)


@pytest.mark.parametrize("policy", DropPolicy)
def test_a_trace_in_parts_of_which_one_is_dropped_is_dropped_whole(install, policy):
    """Kafka is away: parts of it wait, and there is no room for one of them."""
    small = Small(PART_BYTES * 4, policy)
    install(small)
    with spanferry.start_span("large"):
        for _ in range(6):
            part()
    with spanferry.start_span("small"):
        pass
    assert [one.trace.tags[NAME] for one in small.sent() if one.trace is not None] == ["small"]
    parcels, traces, lost = small.dropped
    assert (parcels, traces, lost) == (8, 1, 7)
    assert small.buffer.used_bytes == 0


def test_what_a_dropped_trace_still_has_to_say_keeps_nobody_out(install):
    small = Small(PART_BYTES * 4)
    install(small)
    with spanferry.start_span("large"):
        for _ in range(4):
            part()
        used = small.buffer.used_bytes
        assert small.buffer.counts.dropped_full == 1
        part()
        assert small.buffer.used_bytes == used


def test_a_trace_of_which_a_part_is_sent_says_that_another_is_missing(install):
    """It cannot be called back; what is left of it comes, with a mark."""
    small = Small(PART_BYTES * 4)
    install(small)
    with spanferry.start_span("large"):
        part()
        first = small.sent()
        for _ in range(5):
            part()
        waiting = small.sent()
        part()
    last = small.sent()
    assert (len(first), len(waiting), len(last)) == (1, 3, 2)
    end = last[-1]
    assert end.end is not None
    assert end.trace is not None
    assert end.trace.metadata[INCOMPLETE] == "dropped"
    assert all(INCOMPLETE not in one.trace.metadata for one in first if one.trace)
    assert small.dropped == (8, 0, 2)


def test_a_trace_counts_under_what_its_first_parcel_was_dropped_for(install):
    """The parts that follow are given up because of that one, and not for want of room."""
    small = Small(4 * 1024 * 1024)
    install(small)
    with spanferry.start_span("large"):
        with spanferry.start_span("giant") as span:
            span.set_inputs("x" * 3_500_000)
        for _ in range(3):
            part()
    with spanferry.start_span("small"):
        pass
    assert [one.trace.tags[NAME] for one in small.sent() if one.trace is not None] == ["small"]
    traces = {"buffer_full": 0, "oversize": 1, "refused": 0, "broken": 0}
    assert traces_dropped(small.buffer.counts, small.stager.drops) == traces
    parcels = parcels_dropped(small.buffer.counts, small.stager.drops)
    assert parcels == traces | {"buffer_full": small.buffer.counts.parcels - 2}


def test_a_parcel_that_is_refused_record_by_record_is_dropped_once():
    small = Small(10_000_000)
    receipt = small.ledger.enter(size=1, ends_trace=True)
    for _ in range(3):
        small.stager.drop(receipt, DropReason.REFUSED, ValueError("a record of 100 bytes"))
    assert small.stager.drops.parcels["refused"] == small.stager.drops.traces["refused"] == 1


def test_a_session_that_ends_in_the_middle_of_a_parcel_does_not_lose_it():
    """As the exit ends it, to have the spool take what waits."""
    small = Small(10_000_000)
    trace = a_trace(3_000_000)

    async def interrupted() -> list[Record]:
        small.put(trace)
        taking = asyncio.ensure_future(small.stager.take())
        await asyncio.sleep(0)
        assert not taking.done()
        taking.cancel()
        await asyncio.wait({taking})
        assert taking.cancelled()
        taken = await small.stager.take()
        assert taken is not None
        return taken[1]

    records = asyncio.run(interrupted())
    assert {one.key for one in records} == {trace.trace_id}
    assert sum(len(one.value) for one in records) > 3_000_000
    assert len({one.value for one in records}) == len(records) > 2
    assert small.ledger.taken == 1


def test_what_one_task_has_in_hand_is_waited_for_by_the_one_that_puts_all_away(tmp_path: Path):
    """The exit asks for everything while the spool is being filled anyway; then the loop ends."""
    small = Small(10_000_000)
    trace = a_trace(3_000_000)
    spool = spool_in(tmp_path)
    spooler = Spooler(spool, small.buffer, small.stager, small.lanes, small.ledger, Breath())

    async def at_the_exit() -> None:
        small.put(trace)
        beside = asyncio.ensure_future(spooler.overflow(0))
        await asyncio.sleep(0)
        assert small.buffer.take() is None, "it has it in hand"
        await spooler.put_away(bytes(8), math.inf)
        beside.cancel()
        await asyncio.wait({beside})

    asyncio.run(at_the_exit())
    assert [one.fate for one in small.settled] == [Fate.SPOOLED]
    found = spool.next()
    assert found is not None
    assert found[1].size > 3_000_000
