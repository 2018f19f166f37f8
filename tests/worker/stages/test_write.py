"""write: batches, bisection, retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from spanferry_worker.stages.trace import FinishReason
from spanferry_worker.stages.write import (
    Bisection,
    Queued,
    RetryPolicy,
    WaitingRoom,
    WritePolicy,
    WriteQueue,
)
from tests.worker.events import T0_MS, assembled, feedback

POLICY = WritePolicy(batch_traces_max=3, batch_bytes_max=1_000, linger_s=0.1)


def queued(trace_id: int | None = 1, size: int = 100, lane_id: int = 1, **fields) -> Queued:
    return Queued(assembled(trace_id, size, **fields), lane_id)


def fill(queue: WriteQueue, *items: Queued, now_ms: int = T0_MS) -> None:
    for item in items:
        queue.add(item, now_ms)


def test_a_batch_goes_when_it_is_full():
    queue = WriteQueue(POLICY)
    fill(queue, queued(1), queued(2))
    assert queue.take(T0_MS) is None
    fill(queue, queued(3), queued(4))
    batch = queue.take(T0_MS)
    assert [item.trace.trace_id[-1] for item in batch] == [1, 2, 3]


def test_a_batch_goes_when_its_bytes_are_enough_and_holds_no_more_than_these():
    queue = WriteQueue(POLICY)
    fill(queue, queued(1, 600), queued(2, 600))
    assert len(queue.take(T0_MS)) == 1


def test_a_trace_larger_than_a_batch_goes_alone():
    queue = WriteQueue(POLICY)
    fill(queue, queued(1, 5_000), queued(2))
    assert [item.trace.size for item in queue.take(T0_MS)] == [5_000]


def test_a_batch_goes_when_its_first_has_lingered_or_is_flushed():
    queue = WriteQueue(POLICY)
    fill(queue, queued(1))
    assert queue.due_in_ms(T0_MS + 40) == 60
    assert queue.take(T0_MS + 99) is None
    assert len(queue.take(T0_MS + 100)) == 1
    assert queue.due_in_ms(T0_MS) is None
    fill(queue, queued(2))
    assert len(queue.take(T0_MS, flush=True)) == 1


def test_a_late_addition_waits_for_its_trace():
    queue = WriteQueue(POLICY)
    fill(queue, queued(1, 100), queued(1, 200), queued(2, 300))
    first = queue.take(T0_MS, flush=True)
    assert [item.trace.size for item in first] == [100, 300]
    assert queue.take(T0_MS, flush=True) is None
    queue.settle(first)
    assert [item.trace.size for item in queue.take(T0_MS, flush=True)] == [200]


def test_feedback_by_one_request_keeps_its_order_too():
    queue = WriteQueue(POLICY)
    fill(queue, *(queued(None, s, assessments=[feedback(1, None, "r")]) for s in (1, 2)))
    assert len(queue.take(T0_MS, flush=True)) == 1


class Queueing(RuleBasedStateMachine):
    """What goes in comes out once, in the order of its id, and the account is right."""

    @initialize()
    def start(self) -> None:
        self.queue = WriteQueue(POLICY)
        self.now_ms = T0_MS
        self.under_way: list[list[Queued]] = []
        self.waiting: list[Queued] = []
        self.sizes = 0

    @rule(trace_id=st.integers(1, 4), lane_id=st.integers(1, 2))
    def add(self, trace_id: int, lane_id: int) -> None:
        self.sizes += 1
        item = queued(trace_id, self.sizes, lane_id)
        self.queue.add(item, self.now_ms)
        self.waiting.append(item)

    @rule(flush=st.booleans(), passed=st.integers(0, 200))
    def take(self, flush: bool, passed: int) -> None:
        self.now_ms += passed
        batch = self.queue.take(self.now_ms, flush=flush)
        if batch is None:
            return
        ids = [item.trace.trace_id for item in batch]
        busy = {item.trace.trace_id for other in self.under_way for item in other}
        assert 0 < len(set(ids)) == len(ids) <= 3
        assert not busy & set(ids)
        for item in batch:
            same = [w for w in self.waiting if w.trace.trace_id == item.trace.trace_id]
            assert same[0] == item
            self.waiting.remove(item)
        self.under_way.append(batch)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.under_way) - 1))
        self.queue.settle(self.under_way.pop(index))

    @rule(lane_id=st.integers(1, 2))
    def drop(self, lane_id: int) -> None:
        self.queue.drop(frozenset({lane_id}))
        self.waiting = [item for item in self.waiting if item.lane_id != lane_id]

    @invariant()
    def the_account_is_right(self) -> None:
        held = [*self.waiting, *(item for batch in self.under_way for item in batch)]
        assert self.queue.held_traces == len(held)
        rows = sum(item.trace.size for batch in self.under_way for item in batch)
        assert self.queue.held_bytes == sum(item.trace.size for item in held) + rows

    def teardown(self) -> None:
        while self.under_way or self.waiting:
            for batch in self.under_way:
                self.queue.settle(batch)
            self.under_way.clear()
            self.take(flush=True, passed=0)
            assert self.under_way or not self.waiting
        assert self.queue.due_in_ms(self.now_ms) is None


TestQueueing = Queueing.TestCase


@given(st.sets(st.integers(0, 30)), st.integers(0, 31))
def test_bisection_stores_all_but_the_culprits(poison: set[int], count: int):
    batch = [queued(i) for i in range(count)]
    plan, stored, calls = Bisection(batch), [], 0
    while (part := plan.part) is not None:
        calls += 1
        if any(item.trace.trace_id[-1] in poison for item in part):
            plan.refused()
        else:
            plan.accepted()
            stored += part
    bad = [item for item in batch if item.trace.trace_id[-1] in poison]
    assert plan.culprits == bad
    assert stored == [item for item in batch if item not in bad]
    assert calls <= 1 + 2 * len(bad) * 6


def test_who_is_named_is_not_searched_for():
    plan = Bisection([queued(n) for n in range(1, 6)])
    stored = plan.partly({1: None, 3: None})
    assert [item.trace.trace_id[-1] for item in stored] == [1, 3, 5]
    assert [item.trace.trace_id[-1] for item in plan.culprits] == [2, 4]
    assert plan.part is None


def test_a_part_is_narrowed_to_what_is_still_wanted():
    plan = Bisection([queued(1, lane_id=1), queued(2, lane_id=2)])
    plan.narrow(lambda item: item.lane_id == 2)
    assert [item.lane_id for item in plan.part] == [2]
    plan.narrow(lambda _: False)
    assert plan.part is None


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_retries_wait_longer_within_bounds(attempt: int, chance: float):
    policy = RetryPolicy(retry_initial_s=0.2, retry_max_s=30)
    delay_s = policy.delay_s(attempt, chance)
    assert 0.1 <= delay_s <= 30
    assert delay_s <= policy.delay_s(attempt + 1, chance)


def test_what_the_store_has_no_trace_for_waits_and_is_due_again():
    room = WaitingRoom(POLICY)
    assert room.admit(queued(1, 70), T0_MS)
    assert room.admit(queued(2, 30), T0_MS + 1_000)
    assert room.held_bytes == 100
    assert room.due(T0_MS + 1_999) == []
    (first,) = room.due(T0_MS + 2_000)
    assert (first.trace.trace_id[-1], first.absent_since_ms) == (1, T0_MS)
    assert room.held_bytes == 30
    assert len(room.due(T0_MS + 9_000)) == 1
    assert room.held_bytes == 0


def test_it_does_not_wait_longer_than_it_may_and_not_in_any_number():
    room = WaitingRoom(WritePolicy(absent_s=5, absent_retry_s=1, absent_max=2))
    room.admit(queued(1), T0_MS)
    (again,) = room.due(T0_MS + 1_000)
    assert room.admit(again, T0_MS + 4_999)
    (again,) = room.due(T0_MS + 9_000)
    assert not room.admit(again, T0_MS + 5_000)
    assert all(room.admit(queued(n), T0_MS) for n in (2, 3))
    assert not room.admit(queued(4), T0_MS)
    assert not WaitingRoom(WritePolicy(absent_s=0)).admit(queued(1), T0_MS)


def test_it_does_not_wait_where_it_would_take_too_much_memory():
    room = WaitingRoom(WritePolicy(absent_bytes_max=100))
    assert room.admit(queued(1, 70), T0_MS)
    assert not room.admit(queued(2, 31), T0_MS)
    assert room.admit(queued(3, 30), T0_MS)
    assert room.held_bytes == 100


def test_a_batch_is_bounded_by_what_its_traces_take_in_memory():
    queue = WriteQueue(WritePolicy(batch_bytes_max=1_000, linger_s=0))
    for name in range(4):
        queue.add(Queued(assembled(name + 1, size=10, held_bytes=400), 1), T0_MS)
    assert queue.held_bytes == 1_600
    batch = queue.take(T0_MS)
    assert batch is not None
    assert len(batch) == 2
    assert queue.held_bytes == 1_600 + 800, "rows of what is under way are in the account"
    queue.settle(batch)
    assert queue.held_bytes == 800


def test_what_waits_is_forgotten_with_its_partition():
    room = WaitingRoom(POLICY)
    room.admit(queued(1, lane_id=1), T0_MS)
    room.admit(queued(2, 50, lane_id=2), T0_MS)
    room.drop(frozenset({1}))
    assert room.held_bytes == 50
    assert [item.lane_id for item in room.due(T0_MS + 60_000)] == [2]


def test_what_is_tried_again_does_not_go_with_what_is_new():
    queue = WriteQueue(POLICY)
    absent = [queued(n)._replace(absent_since_ms=T0_MS) for n in (2, 3)]
    fill(queue, queued(1), *absent, queued(4))
    batches = [queue.take(T0_MS, flush=True) for _ in range(3)]
    assert [[item.trace.trace_id[-1] for item in batch] for batch in batches] == [[1], [2, 3], [4]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_traces_max": 0},
        {"linger_s": -1},
        {"absent_s": -1},
        {"absent_retry_s": 0},
        {"absent_max": -1},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WritePolicy(**wrong)


def test_a_retry_policy_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="retry_initial_s"):
        RetryPolicy(retry_initial_s=0)


def test_what_is_missing_to_so_many_batches_of_unfinished_traces():
    queue = WriteQueue(WritePolicy(batch_traces_max=10))
    assert queue.spare(3) == 30
    for number in range(100):
        queue.add(queued(number), T0_MS)
    assert queue.spare(3) == 30, "complete ones are in nobody's way"
    for number in range(100, 125):
        item = queued(number)
        idle = replace(item.trace, reason=FinishReason.IDLE, complete=False)
        queue.add(item._replace(trace=idle), T0_MS)
    assert queue.spare(3) == 5
    assert queue.spare(2) == 0
    queue.share = 0.5
    assert queue.spare(6) == 5
    queue.share = 1.0
    while batch := queue.take(T0_MS, flush=True):
        queue.settle(batch)
    assert queue.spare(3) == 30
