"""The ladder within assembly: what rests is folded, payloads of giants are cut, the oldest are written."""

import gc
import tracemalloc

import pytest

from spanferry_schemas import End, Fragment, Span, SpanEvent, SpanLink, TracePart, encode
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.stages.assemble import AssemblePolicy, Assembler
from spanferry_worker.stages.commit import OffsetTracker
from spanferry_worker.stages.decode import ChunkPolicy, Decoder
from spanferry_worker.stages.giants import OVERLOAD_KEY, OVERLOAD_MARK
from spanferry_worker.stages.overload import shed
from spanferry_worker.stages.trace import AssembledTrace, FinishReason
from tests.worker.events import T0_MS, attachment, decoded, feedback, fragment, number, record, span
from tests.worker.stages.held import held_spans

POLICY = AssemblePolicy(giant_bytes=50_000, giant_attribute_bytes_max=100)
PART = TracePart(metadata={"mine": "1"})


def add(
    assembler: Assembler, trace_id: int, spans: list[Span], end: End | None = None, offset: int = 0
) -> AssembledTrace | None:
    return assembler.add(decoded(fragment(trace_id, spans, end=end, part=PART), offset), T0_MS)


def is_cut(one: Span) -> bool:
    return CUT_ATTRIBUTE in one.attributes


def test_without_giants_the_oldest_of_the_fullest_is_written_as_it_stands():
    small, full = Assembler(POLICY), Assembler(POLICY)
    add(small, 1, [span(1)])
    for trace_id in (2, 3, 4):
        add(full, trace_id, [span(1, payload=1_000)])
    while any(each.fold_idlest() is not None for each in (small, full)):
        pass
    done = shed([small, full], small.held_bytes + full.held_bytes - 1)
    [(index, trace)] = done.written
    assert done.cut == 0
    assert (index, trace.trace_id, trace.reason) == (1, number(2), FinishReason.MEMORY)
    assert OVERLOAD_KEY not in trace.trace.metadata
    assert len(shed([small, full], 0).written) == 3
    assert small.held_bytes == full.held_bytes == 0


def test_what_rests_is_folded_first_and_nothing_else_is_done():
    """The idlest of the fullest first, and no more than is needed."""
    small, full = Assembler(POLICY), Assembler(POLICY)
    add(small, 1, [span(1)])
    for trace_id in range(2, 12):
        add(full, trace_id, [span(name) for name in range(1, 6)])
    add(full, 2, [span(6)], offset=1)  # it is the one that something has come for last
    before = small.held_bytes + full.held_bytes
    done = shed([small, full], before - 1)
    assert (done.cut, done.written) == (0, [])
    folded = [one for one in full._open.values() if one.folded]
    assert [one.trace_id for one in folded] == [number(3)]
    done = shed([small, full], before // 2)
    assert (done.cut, done.written) == (0, [])
    assert small.held_bytes + full.held_bytes <= before // 2
    assert full.held_traces == 10
    assert held_spans(full) == 51


def everything(assembler: Assembler, *, folding: bool) -> list[AssembledTrace]:
    """A trace in parts of every kind, one of them repeated, and what comes of it."""

    def rest() -> None:
        while folding and assembler.fold_idlest() is not None:
            pass

    rich = span(
        2,
        parent=1,
        payload=1_000,
        events=[SpanEvent("said", 5, b'{"a":1}')],
        links=[SpanLink(bytes(16), bytes(8), b"{}")],
    )
    parts = [
        fragment(1, [span(1)], part=TracePart(experiment="shop", tags={"a": "b"})),
        fragment(1, [rich], end=End(3), part=TracePart(metadata={"m": "1"}, deleted_tags=("a",))),
        fragment(1, [rich], end=End(3), part=TracePart(metadata={"m": "1"}, deleted_tags=("a",))),
        fragment(1, attachments=[attachment(1, 50)]),
        feedback(1, 1),
        fragment(1, [], end=End(0, 0, remote_parent=True)),
        fragment(1, [span(3)]),
    ]
    out: list[AssembledTrace] = []
    for offset, part in enumerate(parts):
        trace = assembler.add(decoded(part, offset, number(offset)), T0_MS)
        out += [] if trace is None else [trace]
        rest()
    return [*out, *assembler.expire(T0_MS + 400_000)]


def test_a_folded_trace_is_what_it_would_be():
    one, other = Assembler(POLICY), Assembler(POLICY)
    found = everything(one, folding=True)
    assert found == everything(other, folding=False)
    [trace] = found
    assert (trace.complete, len(trace.spans), len(trace.assessments)) == (True, 3, 1)
    assert one.held_bytes == other.held_bytes == 0
    assert one.spans_repeated == other.spans_repeated == 1


def test_feedback_leaves_a_folded_trace_folded():
    assembler = Assembler(POLICY)
    add(assembler, 1, [span(name) for name in range(1, 6)])
    while assembler.fold_idlest() is not None:
        pass
    held = assembler.held_bytes
    assembler.add(decoded(feedback(1, 1), 1), T0_MS)
    assert held < assembler.held_bytes < held + 600
    [trace] = assembler.drain()
    assert (len(trace.spans), len(trace.assessments)) == (5, 1)
    assert assembler.held_bytes == 0


def test_a_folded_trace_is_idle_when_it_would_be():
    assembler = Assembler(POLICY)
    add(assembler, 1, [span(1)])
    add(assembler, 2, [span(1)])
    while assembler.fold_idlest() is not None:
        pass
    assembler.add(decoded(fragment(1, [span(2)]), 1), T0_MS + 20_000)
    [first] = assembler.expire(T0_MS + 30_000)
    assert (first.trace_id, first.reason) == (number(2), FinishReason.IDLE)
    [second] = assembler.expire(T0_MS + 50_000)
    assert (second.trace_id, len(second.spans)) == (number(1), 2)


def test_a_giant_is_cut_before_anything_is_written_early():
    one, other = Assembler(POLICY), Assembler(POLICY)
    add(one, 1, [span(1)])
    add(other, 2, [span(1, payload=60_000), span(2, payload=10)])
    add(other, 3, [span(1, payload=80_000)])
    done = shed([one, other], 100_000)
    assert (done.cut, done.written) == (1, []), "one is enough, the largest"
    assert other.held_traces == 2
    assert other.held_bytes < 70_000
    assert shed([one, other], 10_000).cut == 1
    assert shed([one, other], 10_000).cut == 0, "what is cut is cut once"


def test_what_was_cut_says_so_and_goes_on_cut():
    assembler = Assembler(POLICY)
    add(assembler, 1, [span(1, payload=60_000), span(2, payload=10)])
    assert shed([assembler], 10_000).cut == 1
    held = assembler.held_bytes
    trace = add(assembler, 1, [span(3, payload=90_000)], End(3), offset=1)
    assert trace is not None
    assert (trace.reason, trace.complete) == (FinishReason.COMPLETE, True)
    assert trace.trace.metadata == {"mine": "1", OVERLOAD_KEY: OVERLOAD_MARK}
    assert [is_cut(each) for each in trace.spans] == [True, False, True]
    assert trace.size > 150_000, "sampling still decides by what came"
    assert held < trace.held_bytes < 10_000
    assert [place.offset for place in trace.positions] == [0, 1]
    assert assembler.held_bytes == 0


def test_more_of_a_cut_trace_takes_no_more_than_its_skeleton():
    assembler = Assembler(POLICY)
    add(assembler, 1, [span(1, payload=60_000)])
    shed([assembler], 10_000)
    before = assembler.held_bytes
    for name in range(2, 202):
        add(assembler, 1, [span(name, payload=100_000)])
    assert assembler.held_bytes < before + 200 * 2_000
    assert shed([assembler], assembler.held_bytes).written == []


def test_the_late_part_of_a_cut_trace_is_no_giant_any_more():
    assembler = Assembler(POLICY)
    add(assembler, 1, [span(1, payload=60_000)])
    shed([assembler], 10_000)
    [(_, trace)] = shed([assembler], 0).written
    assert trace.trace.metadata[OVERLOAD_KEY] == OVERLOAD_MARK
    add(assembler, 1, [span(2, payload=1_000)], offset=1)
    [late] = assembler.expire(T0_MS + 60_000)
    assert not any(map(is_cut, late.spans))
    assert OVERLOAD_KEY not in late.trace.metadata


def test_attachments_cannot_be_cut_so_their_trace_is_written_early():
    assembler = Assembler(POLICY)
    add(assembler, 1, [span(1)])
    event = fragment(1, attachments=[attachment(1, 100_000)])
    assembler.add(decoded(event, 1), T0_MS)
    done = shed([assembler], 50_000)
    assert done.cut == 0
    [(_, trace)] = done.written
    assert OVERLOAD_KEY not in trace.trace.metadata
    assert trace.attachments == [attachment(1, 100_000)]


def test_a_hundred_thousand_open_traces_are_shed_by_a_few_steps_each():
    """By counted steps: doubling what is open doubles the work and no more."""

    class Counted(Assembler):
        steps = 0

        @property
        def largest_giant_bytes(self) -> int:
            Counted.steps += 1
            return super().largest_giant_bytes

    def steps(traces: int) -> float:
        Counted.steps = 0
        assemblers = [Counted(POLICY) for _ in range(4)]
        for name in range(traces):
            add(assemblers[name % 4], name, [span(1)])
        assert len(shed(assemblers, 0).written) == traces
        return Counted.steps / traces

    assert steps(2_000) == pytest.approx(steps(1_000), rel=0.1)


def shapes() -> dict[str, list[Span]]:
    def some(count: int, attributes: int, size: int) -> list[Span]:
        named = [
            {f"name-{i}-{name}": b'"' + b"x" * size + b'"' for name in range(attributes)}
            for i in range(count)
        ]
        return [span(i + 1, name=f"span {i}", attributes=each) for i, each in enumerate(named)]

    return {
        "one bare span": some(1, 0, 0),
        "bare spans": some(20, 0, 0),
        "tiny attributes": some(5, 12, 1),
        "very many attributes": some(3, 200, 1),
        "payloads": some(5, 2, 2_000),
    }


@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize("shape", shapes())
def test_what_is_counted_is_what_is_taken(shape: str, folding: bool):
    """Objects included, for traces open and for their records that are not decided yet."""
    spans = shapes()[shape]
    values = [
        encode(Fragment(number(name), spans, TracePart(experiment="shop", tags={"a": "b"})))
        for name in range(300)
    ]
    assembler, decoder, tracker = Assembler(POLICY), Decoder(ChunkPolicy()), OffsetTracker()
    records = [record(value, offset) for offset, value in enumerate(values)]
    gc.collect()
    tracemalloc.start()
    try:
        for each in records:
            tracker.begin(each.offset)
            for outcome in decoder.take(each, None, T0_MS):
                assembler.add(outcome, T0_MS)
        while folding and assembler.fold_idlest() is not None:
            pass
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert assembler.held_traces == 300
    assert 0.8 * taken < assembler.held_bytes < 1.6 * taken
