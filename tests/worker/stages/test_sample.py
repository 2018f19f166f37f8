"""sample: what is kept, and that a skeleton is still a trace."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import SpanEvent, SpanLink, TracePart
from spanferry_schemas.mlflow_keys import SPAN_TOKEN_USAGE
from spanferry_worker.stages.sample import (
    Decision,
    DecisionReason,
    Outcome,
    Sampler,
    SamplingPolicy,
)
from spanferry_worker.stages.skeleton import CUT_ATTRIBUTE, cut_json, skeleton
from tests.worker.events import assembled, attachment, number, span

BIG = json.dumps({"messages": [{"role": "user", "content": "tea? " * 2_000}]}).encode()


def test_by_default_everything_is_kept_as_it_came():
    sampler, trace = Sampler(SamplingPolicy()), assembled(size=10**9)
    decision = sampler.decide(trace)
    assert (decision.outcome, decision.reason) == (Outcome.FULL, DecisionReason.KEEP_ALL)
    assert sampler.apply(trace, decision) is trace


def test_above_the_size_a_trace_becomes_a_marked_skeleton():
    sampler = Sampler(SamplingPolicy(full_bytes_max=1_000))
    trace = assembled(
        size=1_001,
        trace=TracePart(metadata={"mine": "1"}),
        spans=[span(1, attributes={"mlflow.spanInputs": BIG, "small": b"1"})],
    )
    assert sampler.decide(assembled(size=1_000)).outcome is Outcome.FULL
    decision = sampler.decide(trace)
    kept = sampler.apply(trace, decision)
    assert kept is not None
    assert kept.trace.metadata == {
        "mine": "1",
        "spanferry.sampling.outcome": "skeleton",
        "spanferry.sampling.rule": "full_bytes_max",
        "spanferry.sampling.reason": "size",
        "spanferry.sampling.probability": "1",
        "spanferry.sampling.weight": "1",
    }
    assert (kept.positions, kept.size, kept.trace_id) == (trace.positions, 1_001, trace.trace_id)
    attributes = kept.spans[0].attributes
    assert attributes["small"] == b"1"
    assert len(attributes["mlflow.spanInputs"]) <= 1_024
    assert json.loads(attributes["mlflow.spanInputs"]).startswith('{"messages": [{"role"')
    assert json.loads(attributes[CUT_ATTRIBUTE]) == {"mlflow.spanInputs": len(BIG)}


def test_attachments_do_not_make_a_trace_big():
    sampler = Sampler(SamplingPolicy(full_bytes_max=1_000))
    trace = assembled(size=50_500, attachments=[attachment(size=50_000)])
    assert sampler.decide(trace).outcome is Outcome.FULL


def test_a_skeleton_keeps_the_attachments_that_it_still_names():
    kept, cut_away, nowhere = attachment(1), attachment(2), attachment(3)
    small = f'"mlflow-attachment://{kept.attachment_id}?size=20"'.encode()
    big = BIG[:-1] + f', "image": "mlflow-attachment://{cut_away.attachment_id}"}}'.encode()
    trace = assembled(
        size=10**6,
        spans=[span(1, attributes={"mlflow.spanInputs": small, "mlflow.spanOutputs": big})],
        attachments=[kept, cut_away, nowhere],
    )
    sampler = Sampler(SamplingPolicy(full_bytes_max=1_000))
    skeleton_of_it = sampler.apply(trace, sampler.decide(trace))
    assert skeleton_of_it is not None
    assert skeleton_of_it.attachments == [kept]
    assert skeleton_of_it.spans[0].attributes["mlflow.spanInputs"] == small


def test_a_dropped_trace_gives_nothing():
    drop = Decision(Outcome.DROP, "rule", 0.5, DecisionReason.SIZE)
    assert Sampler(SamplingPolicy()).apply(assembled(), drop) is None


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


@pytest.mark.parametrize(
    "wrong", [{"full_bytes_max": 0}, {"attribute_bytes_max": 10}, {"events_bytes_max": -1}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingPolicy(**wrong)
