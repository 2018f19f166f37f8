"""Dead letters: the headers that say why, reading them whatever they are, choosing some."""

from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import RecordKind, RecordMeta, TracePart, encode, split_value, write_meta
from spanferry_worker.stages.dead_letter import (
    REASONS,
    Letter,
    Selection,
    letter_headers,
    read_letter,
)
from spanferry_worker.testing import MemoryRecord
from tests.worker.events import T0_MS, feedback, fragment, number, record, span, whole

ABOUT = {"reason": "malformed", "message": "nö", "topic": "traces", "partition": 3, "offset": 42}


def letter(**fields) -> Letter:
    values = {
        "partition": 0,
        "offset": 7,
        "timestamp_ms": T0_MS,
        "key": number(1),
        "value": b"",
        "headers": [],
        "reason": "malformed",
        "message": "why",
        "failed_at_ms": T0_MS,
        "origin_topic": "traces",
        "origin_partition": 3,
    }
    return Letter(**(values | fields))


def test_a_letter_is_read_as_it_was_written():
    own = [("mine", b"kept"), ("spanferry", None), ("mine", b"twice")]
    headers = letter_headers(own, ABOUT | {"timestamp_ms": 5, "failed_at_ms": 6, "version": "1.2"})
    read = read_letter(record(b"value", 9, partition=1, headers=headers))
    assert (read.partition, read.offset, read.key, read.value) == (1, 9, number(1), b"value")
    assert read.headers == own
    assert (read.reason, read.message, read.version) == ("malformed", "nö", "1.2")
    assert (read.origin_topic, read.origin_partition, read.origin_offset) == ("traces", 3, 42)
    assert (read.origin_timestamp_ms, read.failed_at_ms, read.attempts) == (5, 6, 1)


def test_every_death_counts_one_more_and_says_everything_once():
    headers = letter_headers([("mine", b"kept")], ABOUT)
    for attempts in (2, 3):
        headers = letter_headers(headers, ABOUT | {"reason": "refused"})
        names = [name for name, _ in headers]
        assert len(names) == len(set(names))
        assert dict(headers)["mine"] == b"kept"
        assert dict(headers)["dlq.reason"] == b"refused"
        assert dict(headers)["dlq.attempts"] == str(attempts).encode()


headers_of_anybody = st.lists(
    st.tuples(
        st.one_of(
            st.text(max_size=5),
            st.sampled_from(["attempts", "offset", "reason", "failed_at_ms"]).map("dlq.".__add__),
            st.just("spanferry"),
        ),
        st.one_of(st.none(), st.binary(max_size=30), st.integers().map(lambda n: str(n).encode())),
    )
)


@given(headers_of_anybody, st.one_of(st.none(), st.binary(max_size=40)), st.binary(max_size=20))
def test_whatever_lies_there_can_be_read_and_chosen(headers, value, key):
    read = read_letter(MemoryRecord("traces.dlq", 0, 1, T0_MS, key, value, headers))
    assert read.attempts >= 1
    assert read.failed_at_ms >= 0
    assert isinstance(Selection(experiment="x", trace_id=number(1)).takes(read), bool)
    assert read_letter(record(value, headers=letter_headers(headers, ABOUT))).attempts >= 1


def test_the_reasons_are_those_of_the_decoder_and_of_the_stages():
    assert set(REASONS) == {
        *("empty", "unknown_version", "malformed", "unknown_event", "invalid"),
        *("chunks_incomplete", "chunks_mismatch", "chunks_too_big", "chunks_nested"),
        *("refused", "no_experiment", "no_trace"),
    }


def test_what_is_not_asked_for_leaves_nobody_out():
    assert Selection().takes(letter())


def test_each_filter_leaves_out_the_others():
    one = letter(reason="refused")
    assert Selection(reasons=frozenset({"refused", "empty"})).takes(one)
    assert not Selection(reasons=frozenset({"empty"})).takes(one)
    assert Selection(topic="traces", partition=3).takes(one)
    assert not Selection(topic="other").takes(one)
    assert not Selection(topic="traces", partition=0).takes(one)
    assert Selection(trace_id=number(1)).takes(one)
    assert not Selection(trace_id=number(2)).takes(one)


def test_feedback_belongs_to_the_trace_that_it_names():
    def of(event, kind=RecordKind.ASSESSMENT) -> Letter:
        header = write_meta(RecordMeta(b"producer", 0, kind))
        return letter(value=encode(event), headers=[header])

    assert of(feedback(trace_id=5)).trace_id == number(5)
    assert of(feedback(trace_id=None, request="r-1")).trace_id is None
    assert of(whole(7), RecordKind.FRAGMENT).trace_id == number(1)
    assert letter(key=b"short").trace_id is None
    assert letter(key=None).trace_id is None


def test_an_experiment_is_found_by_name_and_by_id_in_the_record():
    by_id = letter(value=encode(fragment(1, [span()], part=TracePart(experiment_id="42"))))
    by_name = letter(value=encode(whole()))
    assert Selection(experiment="42").takes(by_id)
    assert not Selection(experiment="42").takes(by_name)
    assert Selection(experiment="shop").takes(by_name)
    assert not Selection(experiment="sho").takes(by_name)
    assert not Selection(experiment="42").takes(letter(value=b"\xff"))


def test_every_piece_of_a_refused_trace_names_its_experiment_by_the_message():
    pieces = split_value(
        encode(whole(payload=5_000)), trace_id=number(1), group_id=b"g" * 8, record_bytes_max=2_000
    )
    for piece in pieces:
        one = letter(value=piece, reason="no_experiment", message="no experiment '42' here")
        assert Selection(experiment="42").takes(one)
        assert not Selection(experiment="4").takes(one)
        assert not Selection(experiment="42").takes(letter(value=piece, message=one.message))
