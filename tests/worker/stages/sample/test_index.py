"""sample: very many decisions in little memory."""

import gc
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.stages.sample import (
    Index,
    Known,
    Outcome,
    decode_decisions,
    encode_decisions,
    entries,
)
from tests.worker.events import number

MB = 1_000_000
DECISIONS = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from(Outcome),
        st.lists(st.integers(0, 99), max_size=3),
        st.sampled_from((1.0, 2.5)),
    ),
    max_size=40,
)


def expected(decisions: list[tuple[int, Outcome, list[int], float]], index: int) -> Known | None:
    mine = [one for one in decisions if one[0] == index]
    if not mine:
        return None
    order = [Outcome.DROP, Outcome.SKELETON, Outcome.FULL]
    outcome = max((one[1] for one in mine), key=order.index)
    known = all(one[2] for one in mine)
    offsets = {offset for one in mine for offset in one[2]} if known else set()
    weight = 2.5 if any(one[3] == 2.5 for one in mine) else 1.0
    return Known(outcome, weight, tuple(sorted(offsets)))


@given(DECISIONS, st.integers(0, 40))
def test_what_was_put_in_is_found_however_it_lies(decisions, older):
    """Part of it came from a log, the rest was decided since; some of it is sorted already."""
    index = Index(MB)
    blocks = [entries(number(one), *rest) for one, *rest in decisions]
    index.add_older("here", blocks[:older], 5)
    for block in blocks[older:]:
        index.add("here", block, 9)
        if len(block) % 48 == 0:
            index._seal(index._shelves["here"])
    for one in range(14):
        assert index.find("here", number(one)) == expected(decisions, one)
        assert index.find("elsewhere", number(one)) is None
    total = sum(shelf.held_bytes for shelf in index._shelves.values())
    assert index.held_bytes == total == index.place_bytes("here")
    index.keep([])
    assert index.held_bytes == 0


def test_it_takes_24_bytes_a_record_and_finds_all_of_them():
    chance = random.Random(1)
    ids = [chance.randbytes(16) for _ in range(12_000)]
    index = Index(64 * MB)
    gc.collect()
    tracemalloc.start()
    for offset, one in enumerate(ids):
        index.add("here", entries(one, Outcome.DROP, [offset]), offset)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1.05 * index.held_bytes < 1.1 * 24 * len(ids)
    for offset in range(0, len(ids), 997):
        assert index.find("here", ids[offset]) == Known(Outcome.DROP, 1.0, (offset,))
    assert index.find("here", chance.randbytes(16)) is None


def test_the_oldest_go_first_whatever_their_place():
    index = Index(60_000)
    for turn in range(4_000):
        place = "a" if turn % 2 else "b"
        index.add(place, entries(number(turn), Outcome.SKELETON, [turn]), turn)
        assert index.held_bytes <= 60_000
    assert index.forgot("a") or index.forgot("b")
    assert index.find("b", number(0)) is None
    assert index.find("a", number(3_999)) == Known(Outcome.SKELETON, 1.0, (3_999,))
    kept = [turn for turn in range(4_000) if index.find("a" if turn % 2 else "b", number(turn))]
    assert len(kept) > 1_000
    assert min(kept) > 0


def test_a_bound_below_anything_holds_nothing():
    index = Index(10)
    index.add("here", entries(number(1), Outcome.DROP, [1, 2]), 1)
    assert (index.held_bytes, index.forgot("here")) == (0, True)


def test_very_many_records_of_one_trace_count_as_unknown():
    index = Index(MB)
    index.add("here", entries(number(1), Outcome.DROP, range(1_001)), 1)
    assert index.find("here", number(1)) == Known(Outcome.DROP, 1.0, ())
    assert index.held_bytes == 24


@pytest.mark.parametrize("odd", [None, b"", b"x", b"\x92\xa1g\xc4\x01x", b"\x91\x01", b"\xc1" * 9])
def test_records_that_cannot_be_read_say_nothing(odd: bytes | None):
    assert decode_decisions(odd, "g") == b""


def test_a_record_is_its_groups():
    some = entries(number(1), Outcome.DROP, [1, 2], 3.0)
    value = encode_decisions("spanferry", some)
    assert decode_decisions(value, "spanferry") == some
    assert decode_decisions(value, "another") == b""
    assert len(value) < len(some) + 20
