"""consume: the gate, the clock, the sizes, the ledger, the stalls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import RecordKind, RecordMeta
from spanferry_worker.stages.consume import (
    FlowGate,
    FlowPolicy,
    PartitionClock,
    PollSizer,
    Room,
    SequenceLedger,
    StallDetector,
)

POLICY = FlowPolicy(held_bytes_max=1_000, poll_bytes_max=1_000, poll_records_max=50)


def test_the_gate_closes_above_the_limit_and_opens_at_half():
    gate = FlowGate(Room(POLICY))
    assert not gate.update(1_000)
    assert gate.update(1_001)
    assert gate.update(501)
    assert not gate.update(500)
    assert not gate.update(1_000)


def test_less_is_held_where_less_is_left_and_never_more_than_the_setting_says():
    room = Room(FlowPolicy(held_bytes_max=1_000, poll_bytes_max=100))
    gate = FlowGate(room)
    assert room.fit(5_000)
    assert (room.held_bytes_max, room.waiting_bytes_max) == (1_000, 500)
    assert room.fit(400)
    assert (room.held_bytes_max, room.waiting_bytes_max) == (400, 200)
    assert gate.update(401)
    assert gate.update(201)
    assert not gate.update(200)
    assert room.fit(100)
    assert not room.fit(99), "not one poll"
    assert room.held_bytes_max == 100


def test_a_poll_asks_for_about_the_bytes_it_should():
    sizer = PollSizer(POLICY)
    for _ in range(50):
        sizer.saw(10, 1_000)
    assert sizer.records in {9, 10}
    for _ in range(50):
        sizer.saw(1, 1_000_000)
    assert sizer.records == 1
    for _ in range(100):
        sizer.saw(100, 100)
    assert sizer.records == 50


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2_000))))
def test_a_partitions_time_never_goes_back_nor_ahead_of_the_wall(steps):
    clock, wall, before = PartitionClock(), 1_000, 0
    for caught_up, stamp in steps:
        wall += 1
        now = clock.caught_up(wall) if caught_up else clock.record(stamp, wall)
        assert before <= now <= wall
        before = now


def test_while_records_wait_time_is_theirs():
    clock = PartitionClock()
    assert clock.record(500, 10_000) == 500
    assert clock.record(700, 11_000) == 700
    assert clock.caught_up(12_000) == 12_000


def meta(sequence: int, producer: bytes = b"producer") -> RecordMeta:
    return RecordMeta(producer, sequence, RecordKind.FRAGMENT)


def test_gaps_and_repeats_are_counted_by_producer():
    ledger = SequenceLedger()
    for sequence in (7, 8, 11, 9, 12, 12):
        ledger.saw(meta(sequence))
    ledger.saw(meta(0, b"another!"))
    ledger.saw(meta(1, b"another!"))
    assert (ledger.missing, ledger.repeated) == (2, 2)


def test_the_ledger_forgets_the_producer_not_heard_of_for_longest():
    ledger = SequenceLedger(producers_max=2)
    for producer in (b"aaaaaaaa", b"bbbbbbbb", b"aaaaaaaa", b"cccccccc"):
        ledger.saw(meta(5 if producer != b"aaaaaaaa" else ledger.repeated, producer))
    ledger.saw(meta(90, b"bbbbbbbb"))  # forgotten, so no gap
    assert ledger.missing == 0
    ledger.saw(meta(95, b"cccccccc"))
    assert ledger.missing == 89


def test_a_partition_stalls_when_records_wait_and_none_is_read():
    detector = StallDetector(10.0)
    key = ("t", 0)
    assert detector.look({key: (5, 3)}, 0) == []
    assert detector.look({key: (5, 3)}, 9_000) == []
    assert detector.look({key: (5, 3)}, 11_000) == [key]
    assert detector.look({key: (6, 3)}, 12_000) == []
    assert detector.look({key: (6, 0)}, 30_000) == []
    assert detector.look({key: (6, 1)}, 31_000) == []


def test_a_partition_never_read_stalls_too():
    detector = StallDetector(10.0)
    assert detector.look({("t", 0): (None, 3)}, 0) == []
    assert detector.look({("t", 0): (None, 3)}, 10_000) == [("t", 0)]
    detector.reset()
    assert detector.look({("t", 0): (None, 3)}, 11_000) == []


@pytest.mark.parametrize(
    "wrong", [{"resume_ratio": 1.0}, {"poll_records_max": 0}, {"held_bytes_max": 10}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlowPolicy(**wrong)
