"""Records become the traces that a worker which keeps up would have made of them."""

from msgspec.structs import replace

from spanferry_schemas import End, TracePart, encode, split_value
from spanferry_worker.sampling.gathering import Gatherer
from spanferry_worker.settings import Settings
from spanferry_worker.stages.parts import united
from spanferry_worker.stages.trace import FinishReason
from tests.worker.events import T0_MS, feedback, fragment, header, number, record, span, whole


def test_a_trace_comes_out_when_it_is_complete():
    gatherer = Gatherer(Settings())
    [trace] = gatherer.take(record(whole(1)))
    assert (trace.trace_id, trace.complete, len(trace.spans)) == (number(1), True, 3)
    assert gatherer.drain() == []
    assert gatherer.records == 1


def test_an_incomplete_trace_waits_for_idle_s_of_the_records_time():
    gatherer = Gatherer(Settings())
    assert gatherer.take(record(fragment(1, [span(1)]), timestamp=T0_MS)) == []
    others = [
        gatherer.take(record(whole(2), 1, partition=1, key=number(2), timestamp=T0_MS + 29_000)),
        gatherer.take(record(whole(3), 2, partition=1, key=number(3), timestamp=T0_MS + 31_000)),
    ]
    assert [[trace.trace_id for trace in each] for each in others] == [
        [number(2)],
        [number(1), number(3)],
    ]
    assert others[1][0].reason is FinishReason.IDLE


def test_what_comes_late_is_a_piece_of_its_own():
    gatherer = Gatherer(Settings())
    [trace] = gatherer.take(record(whole(1)))
    assert gatherer.take(record(feedback(1), 1, timestamp=T0_MS + 10)) == []
    [piece] = gatherer.tick(T0_MS + 2_000)
    assert piece.reason is FinishReason.LATE
    both = united([trace, piece])
    assert (len(both.spans), len(both.assessments)) == (3, 1)
    assert both.size == trace.size + piece.size
    assert both.positions == [*trace.positions, *piece.positions]


def test_chunks_are_put_together_and_what_cannot_be_read_is_counted():
    gatherer = Gatherer(Settings())
    big = encode(whole(1, payload=50_000))
    pieces = list(split_value(big, trace_id=number(1), group_id=b"g" * 8, record_bytes_max=20_000))
    assert len(pieces) > 3
    traces = [
        trace
        for offset, piece in enumerate(pieces)
        for trace in gatherer.take(record(piece, offset, headers=(header(),)))
    ]
    assert [trace.trace_id for trace in traces] == [number(1)]
    gatherer.take(record(b"\xff", 99))
    assert gatherer.rejected == 1


def test_what_is_held_is_bounded():
    settings = Settings()
    settings = replace(settings, assemble=replace(settings.assemble, bytes_max=1_000))
    gatherer = Gatherer(settings)
    out = []
    for number_of_it in range(1, 101):
        event = fragment(number_of_it, [span(number_of_it, payload=400)])
        stamp = T0_MS + number_of_it * 300
        key = number(number_of_it)
        out += gatherer.take(record(event, number_of_it, key=key, timestamp=stamp))
    assert {trace.reason for trace in out} == {FinishReason.MEMORY}
    assert len(out) >= 97


def test_united_prefers_spans_that_have_ended_and_later_parts():
    gatherer = Gatherer(Settings())
    open_span = span(1, end_ns=0)
    first = fragment(1, [open_span], part=TracePart(tags={"a": "1", "b": "1"}))
    gatherer.take(record(first))
    last = fragment(1, [span(1)], end=End(1), part=TracePart(tags={"b": "2"}))
    [piece] = [*gatherer.take(record(last, 1)), *gatherer.drain()]
    assert united([piece]) is piece
    again = united([replace(piece, spans=[open_span]), piece])
    assert again.spans == [span(1)]
    assert again.trace.tags == {"a": "1", "b": "2"}
