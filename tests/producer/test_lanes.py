"""Lanes and the ledger: order, sequence numbers, and who is settled when."""

from hypothesis import given
from hypothesis import strategies as st

from spanferry.lanes import Lane, Lanes, Ledger, Receipt, Staged
from spanferry.records import Record
from spanferry_schemas import RecordKind


def staged(name: int) -> Staged:
    value = name.to_bytes(4, "big")
    return Staged(Record(b"k" * 16, value, RecordKind.FRAGMENT), Receipt(name, 4, ends_trace=True))


def name_of(one: Staged) -> int:
    return int.from_bytes(one.record.value, "big")


@given(st.lists(st.sampled_from(["push", "sent", "unknown", "refused", "peek"]), max_size=60))
def test_records_leave_in_order_and_no_sequence_is_used_for_two(steps):
    lane = Lane(0)
    pushed = 0
    arrived: list[tuple[int, int]] = []
    for step in steps:
        if step == "push":
            lane.push(staged(pushed))
            pushed += 1
            continue
        batch = [one for one in (lane.pop(), lane.pop()) if one is not None]
        if step == "sent":
            arrived += [(one.sequence, name_of(one)) for one in batch]
        elif step == "unknown":
            arrived += [(one.sequence, name_of(one)) for one in batch]
            lane.put_back(batch)
        elif step == "refused":
            lane.put_back_unsent(batch)
        elif len(batch) == 2:
            lane.put_back_unsent(batch[1:])
            lane.put_back_unsent(batch[:1])
        else:
            lane.put_back_unsent(batch)
        assert lane.waiting_bytes == 4 * len(lane.waiting)
    by_sequence: dict[int, int] = {}
    for sequence, name in arrived:
        assert by_sequence.setdefault(sequence, name) == name, "two records under one sequence"
    assert sorted(by_sequence) == list(range(len(by_sequence))), "a gap where nothing was lost"
    assert sorted(by_sequence.values()) == list(range(len(by_sequence)))


def test_numbers_that_may_have_arrived_are_given_to_nobody_else():
    """A batch whose fate is unknown goes back; a part of it is refused for its size, and cut."""
    lane = Lane(0)
    for name in range(3):
        lane.push(staged(name))
    batch = [lane.pop(), lane.pop(), lane.pop()]
    lane.put_back(batch)
    refused = [lane.pop()]
    lane.put_back_unsent(refused)
    for name in range(3, 5):
        lane.push(staged(name))
    assert [lane.pop().sequence for _ in range(5)] == [0, 1, 2, 3, 4]


def test_what_is_acknowledged_is_known_by_partition_also_of_those_that_are_gone():
    lanes = Lanes()
    lanes.open([0, 1])
    for lane in lanes:
        lane.push(staged(lane.partition))
        lane.push(staged(lane.partition + 10))
        lane.settled([lane.pop()])
    assert lanes.acknowledged == ((0, 1), (1, 1))
    lanes.open([0])
    assert lanes.acknowledged == ((0, 1), (1, 1))
    lanes.open([0, 1])
    assert [lane.next_sequence for lane in lanes] == [1, 1]


def test_a_parcel_is_settled_with_its_last_record():
    settled: list[int] = []
    ledger = Ledger(lambda receipt: settled.append(receipt.serial))
    one, two = (ledger.enter(size=1, ends_trace=True) for _ in range(2))
    one.open += 2
    ledger.finish(one)  # staging is done
    ledger.finish(two)
    assert settled == [2]
    assert not ledger.settled_up_to(1)
    ledger.finish(one)
    ledger.finish(one)
    assert settled == [2, 1]
    assert ledger.settled_up_to(2)
    assert not ledger.settled_up_to(3)
