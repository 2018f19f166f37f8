"""assemble: attachments, and what may be said of a trace without any of its spans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import End, TracePart
from spanferry_worker.stages.assemble import AssemblePolicy, Assembler
from spanferry_worker.stages.parts import merge_parts
from spanferry_worker.stages.trace import FinishReason
from tests.worker.events import T0_MS, attachment, decoded, fragment, number, span, whole


@pytest.fixture
def assembler() -> Assembler:
    return Assembler(AssemblePolicy(idle_s=30, late_grace_s=1))


def test_attachments_come_out_with_their_trace(assembler):
    assembler.add(decoded(fragment(1, attachments=[attachment(1)]), 0), T0_MS)
    assembler.add(decoded(fragment(1, attachments=[attachment(2)]), 1), T0_MS)
    assembler.add(decoded(fragment(1, attachments=[attachment(1)]), 2), T0_MS)
    trace = assembler.add(decoded(whole(1), 3), T0_MS)
    assert trace is not None
    assert (trace.reason, trace.complete) == (FinishReason.COMPLETE, True)
    assert trace.attachments == [attachment(1), attachment(2)]
    assert [place.offset for place in trace.positions] == [0, 1, 2, 3]


def test_attachments_are_in_the_account(assembler):
    event = decoded(fragment(1, attachments=[attachment(size=100_000)]))
    assembler.add(event, T0_MS)
    assert assembler.held_bytes >= event.size > 100_000
    evicted = assembler.evict()
    assert evicted is not None
    assert evicted.attachments == [attachment(size=100_000)]
    assert assembler.held_bytes == 0


def test_attachments_after_their_trace_are_late(assembler):
    assembler.add(decoded(whole(1), 0), T0_MS)
    assert assembler.add(decoded(fragment(1, attachments=[attachment()]), 1), T0_MS) is None
    [late] = assembler.expire(T0_MS + 1_000)
    assert (late.reason, late.spans) == (FinishReason.LATE, [])
    assert late.attachments == [attachment()]


@pytest.mark.parametrize("when", ["before", "open", "after"])
def test_a_tag_of_its_own_reaches_its_trace(assembler, when):
    tag = decoded(fragment(1, part=TracePart(tags={"mark": "x"})), 7, b"tag")
    rest = [
        decoded(fragment(1, [span(1)]), 0),
        decoded(fragment(1, [span(2)], end=End(2), part=TracePart(tags={"own": "y"})), 1),
    ]
    rest.insert({"before": 0, "open": 1, "after": 2}[when], tag)
    traces = [found for each in rest if (found := assembler.add(each, T0_MS)) is not None]
    traces += assembler.expire(T0_MS + 1_000)
    assert [trace.trace_id for trace in traces] == [number(1)] * (2 if when == "after" else 1)
    tags = [trace.trace.tags for trace in traces]
    assert tags == (
        [{"own": "y"}, {"mark": "x"}] if when == "after" else [{"own": "y", "mark": "x"}]
    )


def test_parts_are_united_prompts_once():
    old = TracePart(model_params={"a": "1", "b": "1"}, prompts=(("p", "1"),))
    new = TracePart(model_params={"b": "2"}, prompts=(("q", "1"), ("p", "1"), ("p", "2")))
    merged = merge_parts(old, new)
    assert merged.model_params == {"a": "1", "b": "2"}
    assert merged.prompts == (("p", "1"), ("q", "1"), ("p", "2"))


PARTS = st.builds(
    TracePart,
    tags=st.dictionaries(st.sampled_from("abc"), st.sampled_from("12")),
    deleted_tags=st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
)


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_deleting_and_setting_tags_ends_as_one_after_the_other(parts: list[TracePart]):
    before = {"a": "0", "b": "0", "c": "0", "d": "0"}
    tags = dict(before)
    merged = parts[0]
    for part in parts:
        tags = {k: v for k, v in tags.items() if k not in part.deleted_tags} | part.tags
    for part in parts[1:]:
        merged = merge_parts(merged, part)
    kept = {k: v for k, v in before.items() if k not in merged.deleted_tags}
    assert kept | merged.tags == tags
