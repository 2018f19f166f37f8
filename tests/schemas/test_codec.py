"""The wire's codec: what goes in comes out, and any bytes at all get an answer."""

import uuid

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spanferry_schemas import (
    WIRE_VERSION,
    Attachment,
    End,
    Rejection,
    RejectReason,
    Span,
    TracePart,
    decode,
    encode,
    encode_fragment,
    encode_large_span,
    encode_span,
    fragment_parts,
)
from tests.schemas import examples


@given(examples.event)
def test_every_event_survives_the_wire(event):
    assert decode(encode(event)) == event


@given(examples.fragment)
def test_a_fragment_of_encoded_spans_is_the_same_bytes(fragment):
    spans = [encode_span(span) for span in fragment.spans]
    assert encode_fragment(
        fragment.trace_id, spans, fragment.trace, fragment.end, fragment.attachments
    ) == encode(fragment)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x01\x91\xc1")
@example(b"\x01" + b"\x91" * 5000)
def test_any_bytes_get_an_answer(value):
    decode(value)
    decode(bytes([WIRE_VERSION]) + value)


@given(examples.event, st.data())
def test_mutated_events_get_an_answer(event, data):
    value = bytearray(encode(event))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    decode(bytes(value))


@given(examples.event, st.data())
def test_a_cut_event_is_rejected(event, data):
    value = encode(event)
    cut = value[: data.draw(st.integers(0, len(value) - 1))]
    assert isinstance(decode(cut), Rejection)


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (None, RejectReason.EMPTY, "no value"),
        (b"", RejectReason.EMPTY, "no value"),
        (b"\x02\x91\x01", RejectReason.UNKNOWN_VERSION, "version byte 2"),
        (b"{", RejectReason.UNKNOWN_VERSION, "version byte 123"),
        (b"\x01", RejectReason.MALFORMED, "not msgpack"),
        (b"\x01\x92\x09\xc0", RejectReason.UNKNOWN_EVENT, "event tag 9"),
        (b"\x01\x91\x01", RejectReason.INVALID, "array"),
        (b"\x01\xa1x", RejectReason.INVALID, "array"),
    ],
)
def test_a_rejection_says_why(value, reason, words):
    rejection = decode(value)
    assert isinstance(rejection, Rejection)
    assert rejection.reason is reason
    assert words in rejection.message


@pytest.mark.parametrize(
    "change",
    [
        {"trace_id": b"short"},
        {"attachments": [Attachment("../../outside", "image/png", b"")]},
        {"attachments": [Attachment(str(uuid.UUID(int=1)) + "\n", "image/png", b"")]},
        {"spans": [], "trace": None, "end": None},
        {"spans": [msgspec.structs.replace(examples.ROOT, span_id=b"seven77")]},
        {"spans": [msgspec.structs.replace(examples.ROOT, start_ns=-1)]},
        {"spans": [msgspec.structs.replace(examples.ROOT, status=7)]},
    ],
)
def test_what_the_types_forbid_is_invalid(change):
    broken = msgspec.structs.replace(examples.EXAMPLES["fragment"], **change)
    rejection = decode(encode(broken))
    assert isinstance(rejection, Rejection)
    assert rejection.reason is RejectReason.INVALID


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chunk", {"index": 3}),
        ("chunk", {"total_bytes": 7}),
        ("chunk", {"count": 0}),
        ("chunk", {"total_bytes": 2**40}),
        ("assessment", {"trace_id": None}),
    ],
)
def test_what_makes_no_sense_is_invalid(name, change):
    broken = msgspec.structs.replace(examples.EXAMPLES[name], **change)
    rejection = decode(encode(broken))
    assert isinstance(rejection, Rejection)
    assert rejection.reason is RejectReason.INVALID


def test_fields_of_a_later_version_are_passed_over():
    value = msgspec.msgpack.decode(encode(examples.EXAMPLES["fragment"])[1:])
    later = bytes([WIRE_VERSION]) + msgspec.msgpack.encode([*value, "a field of tomorrow"])
    assert decode(later) == examples.EXAMPLES["fragment"]


def test_fields_left_out_at_the_end_take_their_defaults():
    value = msgspec.msgpack.decode(encode(examples.EXAMPLES["fragment"])[1:])
    earlier = bytes([WIRE_VERSION]) + msgspec.msgpack.encode(value[:3])
    event = decode(earlier)
    assert event.spans == examples.EXAMPLES["fragment"].spans
    assert event.end is None


def test_a_large_span_and_its_parts_are_what_one_copy_gives() -> None:
    sizes = {"a": 300_000, "b": 1, "c": 1_500_000, "d": 262_144, "e": 262_143}
    attributes = {key: key.encode() * size for key, size in sizes.items()}
    span = Span(b"s" * 8, None, "n", "LLM", 1, 2, attributes=attributes)
    encoded = encode_span(span)

    assert encode_large_span(span) == encoded
    part = TracePart(experiment="e", tags={"a": "b"})
    for trace, end in ((None, None), (part, None), (part, End(5, 0, False))):
        parts = fragment_parts(b"t" * 16, encoded, trace, end)
        assert b"".join(parts) == encode_fragment(b"t" * 16, [encoded], trace, end)
        assert parts[1] is encoded
