"""note: whoever goes on at a committed offset knows what is decided above it."""

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.stages.accounts import Outcome
from spanferry_worker.stages.ledger import Window
from spanferry_worker.stages.note import (
    NOTE_CHARS_MAX,
    RECORDS_MAX,
    Decided,
    read_note,
    write_note,
)

DECIDED = [each for each in Outcome if each is not Outcome.REPORT]


@given(st.lists(st.sampled_from(DECIDED), max_size=300), st.integers(0, 2**60))
def test_a_note_says_what_became_of_each_record(outcomes: list[Outcome], offset: int):
    note = write_note(bytes(outcomes))
    decided = read_note(offset, note)
    if not any(outcomes):
        assert (note, decided) == ("", None)
        return
    assert decided is not None
    assert [decided.of(offset + at) for at in range(len(outcomes))] == outcomes
    assert decided.of(offset - 1) == decided.of(decided.end) == Outcome.UNDECIDED


def test_what_does_not_fit_is_left_out_at_the_end():
    chance = random.Random(1)
    outcomes = bytes(chance.choice((0, 1, 2)) for _ in range(100_000))
    note = write_note(outcomes)
    assert NOTE_CHARS_MAX // 2 < len(note) <= NOTE_CHARS_MAX
    decided = read_note(7, note)
    assert decided is not None
    assert 5_000 < len(decided.outcomes) <= RECORDS_MAX
    assert outcomes.startswith(decided.outcomes)


def test_a_regular_log_is_told_of_as_far_as_a_note_may_reach():
    decided = read_note(0, write_note(b"\0\1\1" * 20_000))
    assert decided is not None
    assert decided.end == RECORDS_MAX


def test_reports_are_read_again():
    """What they say is kept with the ledger, and that only up to the watermark."""
    note = write_note(bytes([Outcome.UNDECIDED, Outcome.REPORT, Outcome.STORED, Outcome.REPORT]))
    assert read_note(5, note) == Decided(5, b"\0\0\1")


@pytest.mark.parametrize(
    "note",
    [
        "",
        "somebody else's",
        "1:",
        "1:~~",
        "1:" + base64.b64encode(b"nonsense").decode(),
        "1:" + base64.b64encode(zlib.compress(b"\x63")).decode(),
        "2:" + write_note(b"\1")[2:],
        "1:" + "A" * NOTE_CHARS_MAX,
    ],
)
def test_what_another_has_noted_says_nothing(note: str):
    assert read_note(0, note) is None


@pytest.mark.parametrize("gap", [1, 3])
def test_the_window_tells_what_became_of_each_offset(gap: int):
    window = Window()
    for n in range(10):
        window.read(100 + n * gap, b"producer", n, 0)
    window.decided([100 + n * gap for n in (1, 3, 4)], Outcome.STORED)
    list(window.pop(100 + gap))
    found = window.outcomes_from(100 + gap, 10_000)
    assert [found[n * gap] for n in range(9)] == [1, 0, 1, 1, 0, 0, 0, 0, 0]
    assert sum(found) == 3, "what lies between is decided by nobody"
    assert window.outcomes_from(100 + gap, 1) == b"\1"
    assert window.outcomes_from(10_000, 10) == b""
