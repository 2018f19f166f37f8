"""decode: events, pieces, rejections; every record is accounted for once."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import Chunk, RejectReason, encode, split_value
from spanferry_schemas.limits import CHUNK_NESTING_MAX
from spanferry_worker.stages.decode import (
    ChunkPolicy,
    DeadReason,
    Decoded,
    Decoder,
    Rejected,
    Settled,
)
from tests.worker.events import T0_MS, header, number, record, whole

POLICY = ChunkPolicy(chunk_bytes_max=100_000, chunk_age_s=60.0)


def pieces(value: bytes, *, size: int = 400, group: bytes | None = None) -> list[bytes]:
    group = group or os.urandom(8)
    return list(split_value(value, trace_id=number(1), group_id=group, record_bytes_max=size))


def take_all(decoder: Decoder, values: list[bytes], now_ms: int = T0_MS, first: int = 0) -> list:
    return [
        outcome
        for offset, value in enumerate(values, start=first)
        for outcome in decoder.take(record(value, offset), None, now_ms)
    ]


def test_a_fragment_is_decoded_with_its_position_and_size():
    value = encode(whole())
    [outcome] = Decoder(POLICY).take(record(value, 7), None, T0_MS)
    assert isinstance(outcome, Decoded)
    assert outcome.event == whole()
    assert [place.offset for place in outcome.positions] == [7]
    assert outcome.size == len(value)


def test_what_does_not_decode_is_rejected_with_its_record():
    broken = record(b"\x01junk", 3)
    [outcome] = Decoder(POLICY).take(broken, None, T0_MS)
    assert isinstance(outcome, Rejected)
    assert outcome.reason is RejectReason.INVALID
    assert outcome.record is broken


def test_a_record_without_value_is_rejected():
    [outcome] = Decoder(POLICY).take(record(None), None, T0_MS)
    assert outcome.reason is RejectReason.EMPTY


@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_chunks_in_any_order_and_doubled_give_the_event_and_every_position(rng, doubled):
    event = whole(payload=700)
    values = pieces(encode(event))
    values += rng.sample(values, doubled)
    rng.shuffle(values)
    decoder = Decoder(POLICY)
    outcomes = take_all(decoder, values)
    [joined] = [each for each in outcomes if isinstance(each, Decoded)]
    settled = [each for each in outcomes if isinstance(each, Settled)]
    assert joined.event == event
    places = [p.offset for outcome in (joined, *settled) for p in outcome.positions]
    assert sorted(places) == list(range(len(values)))
    assert decoder.held_bytes == 0


def test_chunks_of_chunks_are_joined_to_the_depth_of_the_wire():
    event = whole(payload=2_000)
    values = [encode(event)]
    for size in (3_000, 1_500, 700, 400):
        values = [small for value in values for small in pieces(value, size=size)]
    outcomes = take_all(Decoder(POLICY), values)
    assert [type(each) for each in outcomes] == [Decoded]
    assert outcomes[0].event == event
    assert sorted(p.offset for p in outcomes[0].positions) == list(range(len(values)))


def test_chunks_deeper_than_the_wire_allows_are_rejected():
    value = encode(whole())
    for level in range(CHUNK_NESTING_MAX + 1):
        value = encode(Chunk(number(1), number(level, 8), 0, 1, len(value), value))
    [outcome] = take_all(Decoder(POLICY), [value])
    assert outcome.reason is DeadReason.CHUNKS_NESTED


def test_a_value_that_misses_a_piece_is_dead_by_age():
    decoder = Decoder(POLICY)
    values = pieces(encode(whole(payload=700)))
    assert take_all(decoder, values[:-1]) == []
    assert decoder.expire(T0_MS + 59_000) == []
    [dead] = decoder.expire(T0_MS + 60_000)
    assert dead.reason is DeadReason.CHUNKS_INCOMPLETE
    assert len(dead.positions) == len(values) - 1
    assert decoder.held_bytes == 0


def test_the_tail_of_a_value_decided_before_a_restart_is_settled():
    decoder = Decoder(POLICY)
    decoder.resume()
    values = pieces(encode(whole(payload=700)))
    assert take_all(decoder, values[1:]) == []
    [outcome] = decoder.expire(T0_MS + 60_000)
    assert isinstance(outcome, Settled)


@pytest.mark.parametrize("case", ["not resumed", "head missing later", "middle missing"])
def test_other_incomplete_values_are_dead(case):
    decoder = Decoder(POLICY)
    values = pieces(encode(whole(payload=700)))
    start = T0_MS
    if case != "not resumed":
        decoder.resume()
    take_all(decoder, [encode(whole(9))], start)
    if case == "head missing later":
        start += 61_000
    left = [values[1], *values[3:]] if case == "middle missing" else values[1:]
    take_all(decoder, left, start, first=1)
    [outcome] = decoder.expire(start + 60_000)
    assert isinstance(outcome, Rejected)


def test_a_value_too_big_to_hold_is_rejected_piece_by_piece_with_its_bytes():
    decoder = Decoder(ChunkPolicy(chunk_bytes_max=1_000))
    values = pieces(encode(whole(payload=700)))
    outcomes = take_all(decoder, values)
    assert {each.reason for each in outcomes} == {DeadReason.CHUNKS_TOO_BIG}
    assert [each.record.value for each in outcomes] == values
    assert "decode.chunk_bytes_max" in outcomes[0].message


def test_values_together_stay_within_the_bound_the_oldest_gives_way():
    decoder = Decoder(ChunkPolicy(chunk_bytes_max=6_000))
    kept: list = []
    for number_ in range(10):
        kept += take_all(decoder, pieces(encode(whole(payload=700)))[:-1], first=number_ * 100)
        assert decoder.held_bytes <= 6_000
    assert kept
    assert {each.reason for each in kept} == {DeadReason.CHUNKS_INCOMPLETE}
    assert kept[0].positions[0].offset == 0


def test_pieces_that_do_not_belong_together_are_rejected():
    group = os.urandom(8)
    first, *_ = pieces(encode(whole(payload=700)), group=group)
    other = encode(Chunk(number(1), group, 1, 2, 5, b"abc"))
    [outcome] = take_all(Decoder(POLICY), [first, other])
    assert outcome.reason is DeadReason.CHUNKS_MISMATCH
    assert len(outcome.positions) == 2


def test_chunks_of_junk_are_rejected_for_the_junk():
    outcomes = take_all(Decoder(POLICY), pieces(b"\x09" + bytes(1_000)))
    assert [each.reason for each in outcomes] == [RejectReason.UNKNOWN_VERSION]


@given(st.binary(max_size=300), st.randoms(use_true_random=False))
def test_any_bytes_give_an_outcome_never_an_exception(junk, rng: random.Random):
    value = bytearray(encode(whole()))
    for _ in range(3):
        value[rng.randrange(len(value))] = rng.randrange(256)
    outcomes = take_all(Decoder(POLICY), [junk, bytes(value)])
    assert all(isinstance(each, Decoded | Rejected | Settled) for each in outcomes)
    assert header()
