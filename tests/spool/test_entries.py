"""Entries: what is written is read back, whatever has happened to the bytes beside it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry.records import Record
from spanferry.spool.entries import (
    Damage,
    Entry,
    Origin,
    SpooledRecord,
    Stored,
    decode,
    encode,
    frame,
    frames,
)
from spanferry_schemas import RecordKind
from tests.spool.made import entry, number_of


def _written(count: int) -> tuple[bytes, list[int]]:
    data, starts = b"", []
    for number in range(count):
        payload = encode(entry(number, size=20 + number))
        starts.append(len(data))
        data += frame(payload) + payload
    return data, starts


def test_an_entry_comes_back_as_it_was() -> None:
    one = Entry(
        [
            SpooledRecord(Record(b"k" * 16, b"\x01value", RecordKind.CHUNK, 3, 4, 5, 6)),
            SpooledRecord(
                Record(b"k" * 16, b"", RecordKind.ASSESSMENT),
                Origin(b"p" * 8, partition=7, sequence=9),
            ),
        ],
        ends_trace=True,
    )
    assert decode(encode(one)) == one


def test_frames_come_in_order_and_say_where_they_are() -> None:
    data, starts = _written(5)
    found = list(frames(io.BytesIO(data), 0, len(data)))
    assert [one.offset for one in found] == starts
    assert [number_of(decode(one.payload)) for one in found if isinstance(one, Stored)] == [
        0,
        1,
        2,
        3,
        4,
    ]


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_costs_its_own_entry_only(where: int, change: int) -> None:
    data, starts = _written(5)
    where %= len(data)
    hit = max(number for number, start in enumerate(starts) if start <= where)
    harmed = bytearray(data)
    harmed[where] ^= change
    found = list(frames(io.BytesIO(harmed), 0, len(harmed)))
    numbers = [number_of(decode(one.payload)) for one in found if isinstance(one, Stored)]
    assert numbers == [number for number in range(5) if number != hit]
    (damage,) = [one for one in found if isinstance(one, Damage)]
    ends = [*starts[1:], len(data)]
    assert (damage.offset, damage.length) == (starts[hit], ends[hit] - starts[hit])
    assert damage.at_end is (hit == 4)


@given(st.integers(min_value=0))
def test_what_was_cut_off_costs_the_last_entry_only(length: int) -> None:
    data, starts = _written(5)
    length %= len(data)
    whole = [number for number, end in enumerate([*starts[1:], len(data)]) if end <= length]
    found = list(frames(io.BytesIO(data[:length]), 0, length))
    assert [number_of(decode(one.payload)) for one in found if isinstance(one, Stored)] == whole
    assert all(one.at_end for one in found if isinstance(one, Damage))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_a_fault(data: bytes) -> None:
    found = list(frames(io.BytesIO(data), 0, len(data)))
    assert sum(one.length for one in found if isinstance(one, Damage)) <= len(data)


@pytest.mark.parametrize(
    "gap", [1, 11, 12, 13, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 300_000]
)
def test_frames_are_found_behind_a_gap(gap: int) -> None:
    data, _ = _written(2)
    harmed = bytes(gap) + data
    found = list(frames(io.BytesIO(harmed), 0, len(harmed)))
    assert found[0] == Damage(0, gap, at_end=False)
    assert len(found) == 3


def test_a_frame_inside_of_a_payload_is_not_taken_for_one() -> None:
    inner = encode(entry(7))
    outer = encode(
        Entry([SpooledRecord(Record(b"k" * 16, frame(inner) + inner, RecordKind.FRAGMENT))])
    )
    data = frame(outer) + outer
    assert [one.offset for one in frames(io.BytesIO(data), 0, len(data))] == [0]
