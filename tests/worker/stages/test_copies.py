"""Copies of dead letters: the same content, under numbers that no worker has seen."""

import os

from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import Chunk, decode, encode, read_meta, split_value
from spanferry_worker.stages.consume import SequenceLedger
from spanferry_worker.stages.copies import Copier, renumbered
from spanferry_worker.stages.dead_letter import letter_headers, read_letter
from spanferry_worker.stages.decode import ChunkPolicy, Decoded, Decoder, Settled
from tests.worker.events import T0_MS, header, number, record, whole

NEW = b"replayed"


def letter_of(value: bytes | None, *, attempts: int = 1, **fields):
    """The letter that a record becomes when it dies, having died before."""
    one = record(value, **fields)
    headers = list(one.headers)
    for _ in range(attempts):
        headers = letter_headers(headers, {"reason": "refused", "topic": "traces"})
    return read_letter(record(value, **(fields | {"headers": headers})))


def test_content_is_unchanged_and_the_attempts_travel():
    value = encode(whole())
    headers = [("mine", b"kept"), ("empty", None), ("mine", b"twice")]
    letter = letter_of(value, attempts=3, headers=headers)
    copy = Copier(NEW).copy(letter, "traces", 0)
    assert (copy.key, copy.value) == (number(1), value)
    assert copy.headers == [*headers, ("dlq.attempts", b"3")]
    assert dict(letter_headers(copy.headers, {}))["dlq.attempts"] == b"4"


def test_a_record_without_key_and_value_gets_an_empty_value():
    assert Copier(NEW).copy(letter_of(None, key=None), "traces", 0).value == b""
    assert Copier(NEW).copy(letter_of(None), "traces", 0).value is None


def test_the_ledger_sees_neither_losses_nor_repeats():
    copier, ledger = Copier(NEW), SequenceLedger()
    for sequence in (5, 17, 17, 400, 3):
        letter = letter_of(encode(whole()), headers=[header(sequence), ("mine", b"kept")])
        copy = copier.copy(letter, "traces", 2)
        copier.copy(letter, "traces", 1)
        old, new = read_meta(letter.headers), read_meta(copy.headers)
        assert old is not None
        assert new is not None
        assert (new.producer_id, new.kind) == (NEW, old.kind)
        ledger.saw(new)
    assert (ledger.missing, ledger.repeated) == (0, 0)


def test_a_header_that_nobody_can_read_stays_as_it_is():
    letter = letter_of(b"\xff", headers=[("spanferry", b"\xc1"), ("spanferry", None)])
    assert Copier(NEW).copy(letter, "traces", 0).headers[:2] == letter.headers


def pieces(value: bytes, size: int, group: bytes = b"old-grou") -> list[bytes]:
    cut = split_value(value, trace_id=number(1), group_id=group, record_bytes_max=size)
    return list(cut)


def outcomes(decoder: Decoder, values: list[bytes]) -> list:
    return [
        outcome
        for offset, value in enumerate(values)
        for outcome in decoder.take(record(value, offset), None, T0_MS)
    ]


def test_a_worker_takes_a_replayed_value_that_it_has_put_together_before():
    values = pieces(encode(whole(payload=9_000)), 2_000)
    nested = [*pieces(values[0], 700, b"nested-1"), *pieces(values[1], 700, b"nested-2")]
    values = [*nested, *values[2:]]
    assert len(nested) > 4
    decoder = Decoder(ChunkPolicy())
    [first] = outcomes(decoder, values)
    # This is why they are renumbered: as they are they would be taken for a resend.
    resent = outcomes(decoder, values)
    assert resent
    assert all(isinstance(one, Settled) for one in resent)
    replayed = [Copier(NEW).copy(letter_of(value), "traces", 0).value for value in values]
    [second] = outcomes(decoder, replayed)
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)
    assert second.event == first.event


def test_pieces_meet_though_they_are_replayed_one_at_a_time():
    values = pieces(encode(whole(payload=9_000)), 2_000)
    replayed = [Copier(os.urandom(8)).copy(letter_of(one), "traces", 0).value for one in values]
    [whole_again] = outcomes(Decoder(ChunkPolicy()), replayed)
    assert isinstance(whole_again, Decoded)


def test_each_attempt_and_each_salt_gives_another_group():
    value = pieces(encode(whole(payload=9_000)), 2_000)[1]
    salted = [Copier(NEW, salt).copy(letter_of(value), "traces", 0).value for salt in (b"", b"1/")]
    tried = [Copier(NEW).copy(letter_of(value, attempts=n), "traces", 0).value for n in (1, 2)]
    groups = set()
    for one in (value, *salted, *tried):
        chunk = decode(one)
        assert isinstance(chunk, Chunk)
        groups.add(chunk.group_id)
    assert len(groups) == 4


@given(
    st.integers(0, 70_000), st.integers(0, 65_000), st.binary(max_size=40), st.binary(max_size=9)
)
def test_only_the_group_of_a_chunk_changes(size, index, data, salt):
    chunk = Chunk(number(1), b"old-grou", index, 65_001, 70_040, data + b"x" * size)
    changed = decode(renumbered(encode(chunk), salt))
    assert isinstance(changed, Chunk)
    assert changed.group_id != chunk.group_id
    assert changed == Chunk(number(1), changed.group_id, index, 65_001, 70_040, chunk.data)


@given(st.binary(max_size=80))
def test_whatever_is_no_chunk_stays_as_it_is(value):
    for prefix in (b"", b"\x01", b"\x01\x97\x02\xc4\x10"):
        changed = renumbered(prefix + value, b"1")
        assert len(changed) == len(prefix + value)
    assert renumbered(encode(whole()), b"1") == encode(whole())
    assert renumbered(b"\x01\x92" + value, b"1") == b"\x01\x92" + value
