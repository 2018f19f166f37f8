"""Chunks: any value cut at any limit is whole again, in any order."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import Chunk, decode, join_chunks, split_value
from spanferry_schemas.limits import CHUNK_ENVELOPE_BYTES, RECORD_BYTES_FLOOR, VALUE_BYTES_MAX
from tests.schemas.examples import TRACE_ID

GROUP = b"g" * 8


def cut(value: bytes, limit: int) -> list[bytes]:
    return list(split_value(value, trace_id=TRACE_ID, group_id=GROUP, record_bytes_max=limit))


@given(st.binary(max_size=5000), st.integers(CHUNK_ENVELOPE_BYTES + 1, 6000), st.randoms())
def test_cut_and_joined_is_the_same(value, limit, rng):
    pieces = cut(value, limit)
    assert all(len(piece) <= limit for piece in pieces)
    if len(value) <= limit:
        assert pieces == [value]
        return
    chunks = [decode(piece) for piece in pieces]
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    rng.shuffle(chunks)
    assert join_chunks(chunks) == value


def test_a_missing_chunk_is_noticed_and_a_repeated_one_does_no_harm():
    value = random.Random(7).randbytes(50_000)
    chunks = [decode(piece) for piece in cut(value, RECORD_BYTES_FLOOR)]
    assert join_chunks(chunks[:-1]) is None
    assert join_chunks([*chunks, chunks[2]]) == value
    assert join_chunks([]) is None


def test_chunks_of_different_values_do_not_join():
    one = [decode(piece) for piece in cut(b"a" * 20_000, RECORD_BYTES_FLOOR)]
    other = [decode(piece) for piece in cut(b"b" * 30_000, RECORD_BYTES_FLOOR)]
    assert join_chunks([*one[:-1], other[-1]]) is None


def test_a_value_above_the_ceiling_is_refused_before_it_is_cut():
    with pytest.raises(ValueError, match="cannot be sent"):
        split_value(
            bytes(VALUE_BYTES_MAX + 1), trace_id=TRACE_ID, group_id=GROUP, record_bytes_max=900_000
        )


def test_parts_are_cut_as_the_whole_is() -> None:
    value = bytes(range(256)) * 20
    for at, then in ((0, 0), (1, 5_000), (300, 301), (2_500, 5_120)):
        parts = (value[:at], value[at:then], value[then:])
        pieces = split_value(parts, trace_id=TRACE_ID, group_id=GROUP, record_bytes_max=1_000)
        assert list(pieces) == cut(value, 1_000)
    whole = split_value((value,), trace_id=TRACE_ID, group_id=GROUP, record_bytes_max=10_000)
    assert list(whole) == [value]
