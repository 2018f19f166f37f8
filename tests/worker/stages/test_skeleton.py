"""sample: a skeleton is still a trace."""

import json
import string

from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import SpanEvent, SpanLink
from spanferry_schemas.mlflow_keys import SPAN_TOKEN_USAGE
from spanferry_worker.stages.skeleton import CUT_ATTRIBUTE, cut_json, skeleton
from tests.worker.events import number, span

BIG = json.dumps({"messages": [{"role": "user", "content": "tea? " * 2_000}]}).encode()


def cut(original, **limits):
    return skeleton(original, **({"attribute_bytes_max": 100, "events_bytes_max": 500} | limits))


def test_a_skeleton_keeps_what_says_what_happened():
    usage = json.dumps({"input_tokens": 10, "note": "x" * 500}).encode()
    original = span(2, parent=1, attributes={SPAN_TOKEN_USAGE: usage, "big": BIG})
    small = cut(original)
    assert small.attributes[SPAN_TOKEN_USAGE] == usage
    for field in ("span_id", "parent_id", "name", "span_type", "start_ns", "end_ns", "status"):
        assert getattr(small, field) == getattr(original, field)


def test_a_span_with_nothing_to_cut_is_left_alone():
    original = span(1)
    assert cut(original) is original


def test_a_skeleton_of_a_skeleton_is_the_same():
    events = [SpanEvent(f"e{i}", i, b'{"a": "' + b"x" * 90 + b'"}') for i in range(50)]
    once = cut(span(1, attributes={"big": BIG}, events=events))
    assert cut(once) == once


def test_many_events_are_cut_to_the_first_and_big_ones_to_previews():
    events = [SpanEvent(f"chunk-{i}", i, b'{"value": 1}') for i in range(1_000)]
    events[0] = SpanEvent("exception", 0, json.dumps({"exception.message": "no " * 1_000}).encode())
    small = cut(span(1, events=events))
    assert 2 <= len(small.events) < 50
    message = json.loads(small.events[0].attributes)["exception.message"]
    assert message.startswith("no no")
    assert json.loads(small.attributes[CUT_ATTRIBUTE])["events"] > 10_000


def test_links_keep_their_ids():
    link = SpanLink(number(1), number(2, 8), BIG)
    [kept] = cut(span(1, links=[link])).links
    assert (kept.trace_id, kept.span_id, kept.attributes) == (link.trace_id, link.span_id, b"{}")


TEXT = st.text(st.characters() | st.sampled_from('"\\\n€😀'), max_size=400)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXT, inner, max_size=8),
    max_leaves=40,
)


@given(JSON, st.integers(64, 300), st.booleans())
def test_a_preview_is_a_json_string_within_the_limit(value, limit: int, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    preview = cut_json(text, limit)
    assert len(preview) <= limit
    assert isinstance(json.loads(preview), str)


@given(st.text(string.printable, min_size=200), st.integers(64, 150))
def test_the_preview_of_a_string_is_its_beginning(text: str, limit: int):
    preview = json.loads(cut_json(json.dumps(text).encode(), limit))
    assert preview.endswith("…")
    assert text.startswith(preview[:-1])
    assert len(json.dumps(preview)) > limit // 2


def test_bytes_that_are_no_json_are_cut_all_the_same():
    assert isinstance(json.loads(cut_json(b"\xff\xfe" * 500, 100)), str)
    assert isinstance(json.loads(cut_json(b'"' + b"\\" * 999, 100)), str)
