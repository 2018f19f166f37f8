"""Dead letters as lines: nothing in them moves the cursor, everything fits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.dlq.text import HEAD, as_json, as_line, counted, cut, printable, size_text
from spanferry_worker.dlq.text import time_text as when
from tests.worker.events import T0_MS
from tests.worker.stages.test_dead_letter import letter


def test_the_columns_stand_under_their_heads():
    line = as_line(letter(value=b"x" * 1_234, attempts=3, message="why"), ["traces"], 400)
    assert line.endswith("why\n")
    at = {name: HEAD.index(name) for name in ("REASON", "TRACE", "REPLAYED", "MESSAGE")}
    assert line[at["REASON"] :].startswith("malformed ")
    assert line[at["TRACE"] :].startswith("tr-00000000000000000000000000000001 ")
    assert line[at["REPLAYED"] :].startswith("yes ")
    assert line[at["MESSAGE"] :] == "why\n"
    assert line.startswith("0:7 ")
    assert " 1.2 KB      3  " in line


def test_a_message_is_cut_to_the_width():
    line = as_line(letter(message="m" * 500), [], 200)
    assert len(line) == 201
    assert line.endswith("m…\n")
    assert as_line(letter(message="m" * 500), [], 1).count("m") > 30


def test_json_holds_everything_and_one_line():
    line = as_json(letter(value=None, message="a\nb", key=b"\xff"), ["traces"])
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "partition": 0,
        "offset": 7,
        "failed_at_ms": T0_MS,
        "reason": "malformed",
        "message": "a\nb",
        "trace_id": None,
        "key": "ff",
        "value_bytes": 0,
        "origin": {"topic": "traces", "partition": 3, "offset": None, "timestamp_ms": None},
        "attempts": 1,
        "group": "",
        "version": "",
        "replayed_to": ["traces"],
    }


@given(st.text())
def test_nothing_that_controls_a_terminal_comes_through(text):
    assert printable(text).isprintable()
    assert len(cut(text, 10)) <= 10


def test_an_escape_sequence_is_shown_as_such():
    assert printable("a\x1b[31mb\n") == "a\\x1b[31mb\\n"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1_000, "1.0 KB"), (2_500_000, "2.5 MB")]
)
def test_sizes_have_their_unit(size, text):
    assert size_text(size) == text


def test_times_are_utc_and_never_fail():
    assert when(T0_MS) == "2023-11-14T22:13:20Z"
    assert when(2**63 - 1).startswith("9999-12-31")


def test_counts_begin_with_the_most():
    assert counted({"b": 1, "a": 1, "c": 2_000}) == "c 2,000, a 1, b 1"
