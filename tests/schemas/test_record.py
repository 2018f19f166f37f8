"""The record around a value: header, hashes, ids."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import (
    HEADER,
    RecordFlag,
    RecordKind,
    RecordMeta,
    assessment_key,
    read_meta,
    session_hash,
    trace_id_bytes,
    trace_id_text,
    write_meta,
)

META = RecordMeta(
    producer_id=b"producer",
    sequence=41,
    kind=RecordKind.FRAGMENT,
    flags=int(RecordFlag.END | RecordFlag.ERROR),
    spans=5,
    size=10_240,
    root_duration_ns=250_000_000,
    session_hash=session_hash("s-1"),
)


def test_the_header_reads_back():
    assert read_meta([("other", b"x"), write_meta(META)]) == META


def test_the_header_is_written_as_ever():
    assert write_meta(META) == (
        "spanferry",
        bytes.fromhex("98c40870726f64756365722901" + "0305" + "cd2800" + "ce0ee6b280")
        + bytes.fromhex("cf0191882ce4ea6f06"),
    )
    assert HEADER == "spanferry"


def test_the_session_hash_never_changes():
    assert session_hash("s-1") == 0x0191882CE4EA6F06
    assert session_hash("") > 0


@given(st.binary(max_size=60))
def test_any_header_gets_an_answer(value):
    meta = read_meta([(HEADER, value)])
    assert meta is None or isinstance(meta, RecordMeta)


def test_a_record_without_header_is_valid():
    assert read_meta([]) is None
    assert read_meta([(HEADER, None)]) is None


@given(st.binary(min_size=16, max_size=16))
def test_trace_ids_between_bytes_and_text(trace_id):
    text = trace_id_text(trace_id)
    assert text.startswith("tr-")
    assert trace_id_bytes(text) == trace_id_bytes(text[3:]) == trace_id


@pytest.mark.parametrize("text", ["", "tr-", "tr-12", "x" * 32, "tr-" + "0" * 33, "tr-" + "é" * 32])
def test_what_is_no_trace_id(text):
    assert trace_id_bytes(text) is None


def test_keys_of_assessments_are_sixteen_bytes_and_equal_everywhere():
    code = "from spanferry_schemas import assessment_key; print(assessment_key('req-1').hex())"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout.strip() == assessment_key("req-1").hex()
    assert len(assessment_key("req-1")) == 16
