"""The buffer: bounded by bytes, whatever the threads do, and every parcel accounted for."""

import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry.buffer import Buffer, LockedBuffer
from spanferry.parcel import Parcel
from spanferry.settings import DropPolicy
from spanferry.testing import capture
from spanferry.trace_state import LiveTrace, TraceDefaults
from spanferry_schemas import End, TracePart


def parcel(size: int, name: int = 0) -> Parcel:
    return Parcel(trace_id=name.to_bytes(16, "big"), size=size, end=End(1))


def ended(size: int) -> LiveTrace:
    """A trace as it waits for the sender."""
    trace = LiveTrace(bytes(16), TraceDefaults(capture()), TracePart(), 0, 1_000, 0)
    trace.size, trace.root = size, b"root"
    trace.pending.append(b"span")
    return trace


def names(buffer: Buffer) -> list[int]:
    found = []
    while (one := buffer.take()) is not None:
        found.append(int.from_bytes(one.trace_id, "big"))
    return found


def test_newest_gives_way():
    buffer = Buffer(100, DropPolicy.NEWEST)
    assert [buffer.put(parcel(40, name)) for name in range(3)] == [True, True, False]
    assert names(buffer) == [0, 1]
    assert buffer.counts.dropped_full == buffer.counts.dropped_traces == 1


def test_oldest_gives_way():
    buffer = Buffer(100, DropPolicy.OLDEST)
    assert all(buffer.put(parcel(40, name)) for name in range(4))
    assert names(buffer) == [2, 3]
    assert buffer.counts.dropped_full == 2


def test_a_trace_that_gives_way_lets_go_of_its_spans():
    buffer = Buffer(100, DropPolicy.OLDEST)
    first = ended(60)
    assert buffer.put(first)
    assert buffer.put(ended(60))
    assert not first.pending
    assert not first.root
    assert buffer.counts.dropped_traces == buffer.counts.dropped_full == 1
    assert buffer.used_bytes == 60


def test_what_is_in_flight_cannot_give_way():
    buffer = Buffer(100, DropPolicy.OLDEST)
    buffer.put(parcel(80))
    assert buffer.take() is not None
    assert not buffer.put(parcel(40))
    buffer.release(80)
    assert buffer.put(parcel(40))


@pytest.mark.parametrize("policy", DropPolicy)
def test_whoever_takes_is_called_until_it_has_started(policy):
    """Also where the buffer is full by then: a thread may be had later than the first time."""
    buffer = Buffer(100, policy)
    called: list[int] = []

    def start() -> None:
        called.append(len(called))
        if len(called) < 4:
            raise RuntimeError("no more threads")
        buffer.on_put = None

    buffer.on_put = start
    for number in range(6):
        buffer.put(parcel(60, number))
    assert called == [0, 1, 2, 3]


def test_a_parcel_larger_than_the_buffer_costs_nobody_else():
    buffer = Buffer(100, DropPolicy.OLDEST)
    buffer.put(parcel(90, 1))
    assert not buffer.put(parcel(101, 2))
    assert names(buffer) == [1]
    assert buffer.counts.dropped_oversize == 1


@given(
    st.sampled_from(DropPolicy),
    st.lists(st.one_of(st.integers(1, 120), st.just(-1), st.just(-2)), max_size=60),
)
def test_parcels_in_are_parcels_out_dropped_or_held(policy, steps):
    """Positive: put of that size. -1: take one. -2: release the oldest taken."""
    buffer = Buffer(100, policy)
    taken: list[int] = []
    out = 0
    for step in steps:
        if step > 0:
            buffer.put(parcel(step))
        elif step == -1:
            one = buffer.take()
            if one is not None:
                taken.append(one.size)
                out += 1
        elif taken:
            buffer.release(taken.pop(0))
        assert 0 <= buffer.used_bytes <= 100
    counts = buffer.counts
    assert counts.parcels == out + len(buffer) + counts.dropped_full + counts.dropped_oversize
    while (one := buffer.take()) is not None:
        taken.append(one.size)
    assert buffer.used_bytes == sum(taken)


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads change as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kind", [Buffer, LockedBuffer])
@pytest.mark.parametrize("policy", DropPolicy)
def test_threads_do_not_lose_count(policy, kind, hurried):
    buffer = kind(5_000, policy)
    out: list[int] = []
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set() or len(buffer):
            one = buffer.take()
            if one is not None:
                out.append(one.size)
                buffer.release(one.size)

    def fill() -> None:
        for size in range(1, 3_000):
            if size % 3:
                buffer.put(ended(size % 97 + 1))
            else:
                buffer.put(parcel(size % 97 + 1))

    drainer = threading.Thread(target=drain)
    fillers = [threading.Thread(target=fill) for _ in range(4)]
    drainer.start()
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
    stop.set()
    drainer.join()
    assert buffer.counts.parcels == 4 * 2_999 == len(out) + buffer.counts.dropped_full
    assert buffer.counts.traces == 4 * 2_999
    assert buffer.used_bytes == 0
