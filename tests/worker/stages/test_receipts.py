"""Receipts: sets of offsets as ranges, and what was replayed where."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.stages.receipts import (
    Offsets,
    Receipt,
    Receipts,
    is_receipt,
    write_receipt,
)
from tests.worker.events import record

offset = st.integers(0, 60)
ranges = st.lists(st.tuples(offset, st.integers(-1, 5)).map(lambda one: (one[0], sum(one))))


def as_set(pairs) -> set[int]:
    return {one for first, last in pairs for one in range(first, last + 1)}


@given(ranges, ranges)
def test_ranges_are_the_set_that_they_stand_for(mine, theirs):
    offsets, others = Offsets(mine), Offsets(theirs)
    assert as_set(offsets.ranges()) == as_set(mine)
    assert len(offsets) == len(as_set(mine))
    assert all((one in offsets) == (one in as_set(mine)) for one in range(-2, 70))
    assert offsets.common(others) == len(as_set(mine) & as_set(theirs))
    runs = offsets.ranges()
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(runs))


def test_what_lies_together_is_one_range():
    offsets = Offsets()
    for one in [*range(1_000), *range(1_001, 2_000)]:
        offsets.add(one)
    assert offsets.ranges() == [(0, 999), (1_001, 1_999)]
    offsets.add(1_000)
    assert offsets.ranges() == [(0, 1_999)]


def receipt(topic: str, *pairs: tuple[int, int], partition: int = 0):
    value, headers = write_receipt(Receipt(topic, list(pairs)))
    return record(value, 99, partition=partition, headers=headers, key=None)


def test_receipts_say_what_went_where():
    receipts = Receipts()
    assert receipts.read(receipt("traces", (1, 3)))
    assert receipts.read(receipt("traces", (5, 5)))
    assert receipts.read(receipt("other", (3, 4)))
    assert receipts.read(receipt("traces", (9, 9), partition=1))
    assert receipts.offsets(0, "traces").ranges() == [(1, 3), (5, 5)]
    assert receipts.offsets(0, "other").ranges() == [(3, 4)]
    assert receipts.offsets(0).ranges() == [(1, 5)]
    assert receipts.offsets(1).ranges() == [(9, 9)]
    assert len(receipts.offsets(2)) == len(receipts.offsets(1, "other")) == 0
    assert receipts.topics(0, 3) == ["other", "traces"]
    assert receipts.topics(1, 3) == []


@pytest.mark.parametrize(
    "value",
    [None, b"", b"[]", b"\xff", b'{"topic":1,"offsets":[]}', b'{"topic":"t"}', b"[" * 9_999],
)
def test_an_unreadable_receipt_is_no_letter_and_says_nothing(value):
    receipts = Receipts()
    broken = record(value, headers=[("dlq.replayed", b"1")])
    assert is_receipt(broken)
    assert receipts.read(broken)
    assert len(receipts.offsets(0)) == 0


def test_a_letter_is_no_receipt():
    letter = record(b"value", headers=[("dlq.reason", b"empty"), ("replayed", b"1")])
    assert not is_receipt(letter)
    assert not Receipts().read(letter)
