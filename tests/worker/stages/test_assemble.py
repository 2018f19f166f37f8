"""assemble: when a trace is finished, why, and what of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import End, TracePart
from spanferry_worker.stages.assemble import AssemblePolicy, Assembler, merge_parts
from spanferry_worker.stages.trace import FinishReason
from tests.worker.events import T0_MS, decoded, feedback, fragment, number, span, whole

POLICY = AssemblePolicy(idle_s=30, age_s=300, late_grace_s=1, feedback_grace_s=5)


@pytest.fixture
def assembler() -> Assembler:
    return Assembler(POLICY)


def test_a_trace_in_one_fragment_is_finished_at_once(assembler):
    trace = assembler.add(decoded(whole(spans=3), 7), T0_MS)
    assert trace is not None
    assert (trace.reason, trace.complete) == (FinishReason.COMPLETE, True)
    assert [each.name for each in trace.spans] == ["span-1", "span-2", "span-3"]
    assert trace.trace.experiment == "shop"
    assert [place.offset for place in trace.positions] == [7]
    assert assembler.held_bytes == assembler.held_traces == 0


def test_a_trace_waits_for_the_spans_that_its_end_counts(assembler):
    assert assembler.add(decoded(fragment(1, [span(1)], end=End(2))), T0_MS) is None
    trace = assembler.add(decoded(fragment(1, [span(2)])), T0_MS)
    assert trace is not None
    assert trace.complete


def test_a_trace_waits_for_the_services_that_were_called(assembler):
    caller = fragment(1, [span(1)], end=End(1, contexts_out=2))
    called = [fragment(1, [span(i)], end=End(1, remote_parent=True)) for i in (2, 3)]
    assert assembler.add(decoded(called[0], 0), T0_MS) is None
    assert assembler.add(decoded(caller, 1), T0_MS) is None
    trace = assembler.add(decoded(called[1], 2), T0_MS)
    assert trace is not None
    assert len(trace.spans) == 3


def test_without_the_root_a_trace_is_not_complete(assembler):
    called = fragment(1, [span(2)], end=End(1, remote_parent=True))
    assert assembler.add(decoded(called), T0_MS) is None


def test_an_incomplete_trace_is_written_when_it_is_idle(assembler):
    assembler.add(decoded(fragment(1, [span(1)])), T0_MS)
    assembler.add(decoded(fragment(1, [span(2)])), T0_MS + 20_000)
    assert assembler.expire(T0_MS + 49_999) == []
    [trace] = assembler.expire(T0_MS + 50_000)
    assert (trace.reason, trace.complete, len(trace.spans)) == (FinishReason.IDLE, False, 2)


def test_a_trace_that_never_rests_is_written_by_age(assembler):
    for step in range(30):
        assembler.add(decoded(fragment(1, [span(step + 1)])), T0_MS + step * 10_000)
        assert assembler.expire(T0_MS + step * 10_000) == []
    [trace] = assembler.expire(T0_MS + 300_000)
    assert (trace.reason, len(trace.spans)) == (FinishReason.AGE, 30)


def test_what_comes_after_the_release_is_late_after_a_grace(assembler):
    assembler.add(decoded(whole(1, 1), 0), T0_MS)
    assert assembler.add(decoded(fragment(1, [span(8)]), 1), T0_MS + 100) is None
    assert assembler.add(decoded(fragment(1, [span(9)]), 2), T0_MS + 900) is None
    assert assembler.expire(T0_MS + 1_000) == []
    [late] = assembler.expire(T0_MS + 1_100)
    assert (late.reason, late.complete, len(late.spans)) == (FinishReason.LATE, True, 2)
    assert [place.offset for place in late.positions] == [1, 2]


def test_a_late_end_makes_a_trace_complete_at_once(assembler):
    assembler.add(decoded(fragment(1, [span(1)])), T0_MS)
    [idle] = assembler.expire(T0_MS + 30_000)
    late = assembler.add(decoded(fragment(1, [span(2)], end=End(2))), T0_MS + 31_000)
    assert late is not None
    assert (idle.complete, late.complete, late.reason) == (False, True, FinishReason.LATE)


def test_a_trace_forgotten_by_the_list_of_released_starts_anew():
    assembler = Assembler(AssemblePolicy(released_traces_max=1))
    assembler.add(decoded(whole(1)), T0_MS)
    assembler.add(decoded(whole(2)), T0_MS)
    assembler.add(decoded(fragment(1, [span(9)])), T0_MS)
    assert assembler.expire(T0_MS + 1_000) == []
    [trace] = assembler.expire(T0_MS + 30_000)
    assert trace.reason is FinishReason.IDLE


def test_repeats_change_nothing_and_are_counted(assembler):
    first = fragment(1, [span(1)], end=End(2))
    assembler.add(decoded(first, 0, b"origin-0"), T0_MS)
    assert assembler.add(decoded(first, 1, b"origin-9"), T0_MS) is None
    trace = assembler.add(decoded(fragment(1, [span(2)]), 2), T0_MS)
    assert trace is not None
    assert len(trace.spans) == 2
    assert len(trace.positions) == 3
    assert assembler.spans_repeated == 1


def test_ends_without_spans_are_told_apart_by_their_origin(assembler):
    remote = fragment(1, end=End(1, remote_parent=True))
    assembler.add(decoded(fragment(1, [span(i) for i in (1, 2, 3)]), 0), T0_MS)
    assembler.add(decoded(remote, 1, b"b-0"), T0_MS)
    assembler.add(decoded(remote, 2, b"b-0"), T0_MS)  # resent
    root = fragment(1, end=End(1, contexts_out=2))
    assert assembler.add(decoded(root, 3, b"a-0"), T0_MS) is None
    assert assembler.add(decoded(remote, 4, b"c-0"), T0_MS) is not None


def test_the_ended_span_replaces_the_open_one_and_never_the_reverse(assembler):
    running, ended = span(1, end_ns=0), span(1)
    assembler.add(decoded(fragment(1, [running]), 0), T0_MS)
    trace = assembler.add(decoded(fragment(1, [ended], end=End(1)), 1), T0_MS)
    assert trace is not None
    assert trace.spans == [ended]
    assembler.add(decoded(fragment(2, [ended]), 2), T0_MS)
    assembler.add(decoded(fragment(2, [running]), 3), T0_MS)
    assert [trace.spans for trace in assembler.drain()] == [[ended]]


def test_later_parts_override_earlier_ones():
    old = TracePart(
        experiment="a", client_request_id="r", tags={"x": "1", "y": "1"}, metadata={"m": "1"}
    )
    new = TracePart(experiment_id="7", response_preview="p", tags={"x": "2"})
    assert merge_parts(old, new) == TracePart(
        experiment_id="7",
        client_request_id="r",
        response_preview="p",
        tags={"x": "2", "y": "1"},
        metadata={"m": "1"},
    )


def test_a_resent_part_does_not_undo_a_later_one(assembler):
    early = fragment(1, [span(1)], part=TracePart(tags={"x": "early"}))
    later = fragment(1, [span(2)], part=TracePart(tags={"x": "later"}))
    for offset, event in enumerate((early, later, early)):
        assembler.add(decoded(event, offset), T0_MS)
    [trace] = assembler.drain()
    assert trace.trace.tags == {"x": "later"}


def test_feedback_joins_the_open_trace(assembler):
    assembler.add(decoded(fragment(1, [span(1)]), 0), T0_MS)
    assembler.add(decoded(feedback(1), 1), T0_MS)
    trace = assembler.add(decoded(fragment(1, end=End(1)), 2, b"o"), T0_MS)
    assert trace is not None
    assert [each.assessment_id for each in trace.assessments] == ["a-1"]


def test_feedback_before_its_trace_waits_for_it(assembler):
    assembler.add(decoded(feedback(1), 0), T0_MS)
    trace = assembler.add(decoded(whole(1), 1), T0_MS + 4_000)
    assert trace is not None
    assert len(trace.assessments) == 1
    assert [place.offset for place in trace.positions] == [0, 1]


def test_feedback_alone_goes_as_late_and_its_trace_may_still_come(assembler):
    assembler.add(decoded(feedback(1)), T0_MS)
    [late] = assembler.expire(T0_MS + 5_000)
    assert (late.reason, late.spans, late.complete) == (FinishReason.LATE, [], False)
    trace = assembler.add(decoded(whole(1)), T0_MS + 6_000)
    assert trace is not None
    assert trace.reason is FinishReason.COMPLETE


def test_feedback_after_its_trace_goes_after_the_short_grace(assembler):
    assembler.add(decoded(whole(1)), T0_MS)
    assembler.add(decoded(feedback(1)), T0_MS)
    [late] = assembler.expire(T0_MS + 1_000)
    assert (late.trace_id, len(late.assessments)) == (number(1), 1)


def test_feedback_by_request_has_no_trace_id(assembler):
    assembler.add(decoded(feedback(1, None, "req-1")), T0_MS)
    assembler.add(decoded(feedback(2, None, "req-1")), T0_MS)
    assembler.add(decoded(feedback(3, None, "req-2")), T0_MS)
    one, two = assembler.expire(T0_MS + 5_000)
    assert one.trace_id is None
    assert [each.assessment_id for each in one.assessments] == ["a-1", "a-2"]
    assert [each.assessment_id for each in two.assessments] == ["a-3"]
    assert assembler.held_bytes == 0


def test_a_drain_gives_everything_back(assembler):
    assembler.add(decoded(fragment(1, [span(1)])), T0_MS)
    assembler.add(decoded(feedback(1, 2)), T0_MS)
    assert {trace.reason for trace in assembler.drain()} == {FinishReason.DRAIN}
    assert assembler.held_traces == assembler.held_bytes == 0


@pytest.mark.parametrize("wrong", [{"idle_s": 0}, {"age_s": 1}, {"bytes_max": 0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AssemblePolicy(**wrong)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_completeness_is_what_the_wire_says(spans, wanted, remote, root):
    """Against the sentence in End's docstring, for a caller that passed its context twice."""
    assembler = Assembler(POLICY)
    events = [fragment(1, [span(i + 1)]) for i in range(spans)]
    events += [fragment(1, end=End(0, remote_parent=True)) for _ in range(remote)]
    if root:
        events.append(fragment(1, end=End(wanted, contexts_out=2)))
    finished = [
        trace
        for offset, event in enumerate(events)
        if (trace := assembler.add(decoded(event, offset, number(offset)), T0_MS)) is not None
    ]
    assert bool(finished) == (root and spans >= wanted and remote >= 2)
