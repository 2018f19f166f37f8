"""sample: what a skeleton says of where its records lie, and what is read of it."""

from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import TracePart
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    Outcome,
    Rule,
    Sampled,
    Sampler,
    SamplingPolicy,
    located,
    read_sampled,
)
from spanferry_worker.stages.sample.sampled import read_records, records_text
from spanferry_worker.stages.trace import Position
from tests.worker.events import assembled, position, span

TOPIC = "spanferry.traces"
OFFSETS = st.integers(0, 2**55)


def places(*offsets: int, partition: int = 3) -> list[Position]:
    return [Position(TOPIC, partition, offset) for offset in offsets]


def test_records_are_said_shortly():
    assert records_text(places(120)) == "spanferry.traces/3:120"
    assert records_text(places(124, 120, 121, 122, 123, 131)) == "spanferry.traces/3:120,1x4,7"
    moved = [*places(7), *places(9, partition=12)]
    assert records_text(moved) == "spanferry.traces/3:7 spanferry.traces/12:9"
    assert records_text([]) is None


def test_10_mb_in_a_busy_partition_fit_and_what_does_not_is_left_out():
    busy = places(*(987_654_321 + 137 * n for n in range(12)), 10**12)
    text = records_text(busy)
    assert text is not None
    assert len(text) <= 240
    assert read_records(text) == tuple(busy)
    squares = places(*(n * n for n in range(100)))
    assert records_text(squares) is None
    assert records_text(places(*range(5_000))) == "spanferry.traces/3:0,1x4999"


@given(st.sets(st.tuples(st.integers(0, 40), OFFSETS), min_size=1, max_size=30))
def test_what_is_said_is_read(where: set[tuple[int, int]]):
    positions = sorted(Position(TOPIC, partition, offset) for partition, offset in where)
    text = records_text(positions)
    if text is not None:
        assert sorted(read_records(text)) == positions


@given(st.text(max_size=60) | st.from_regex(r"t/1:[0-9,x]{1,50}", fullmatch=True))
def test_nothing_that_somebody_else_wrote_does_harm(text: str):
    assert len(read_records(text)) <= 10_000


def test_a_text_that_names_very_many_is_not_ours():
    assert read_records("t/1:0,1x99999") == ()
    assert read_records(f"t/1:{2**63 - 1},1") == ()
    assert read_records("t/1:0,1 nonsense") == ()


def test_a_skeleton_says_where_its_records_lie_and_a_whole_trace_does_not():
    sampler = Sampler(SamplingPolicy(rules=[Rule(name="it", action=Action.SKELETON)]))
    trace = assembled(positions=places(5, 6))
    kept = sampler.apply(trace, sampler.decide(trace, NO_TABLE)).trace
    assert kept is not None
    about = kept.trace.metadata
    assert read_sampled(about, TOPIC) == Sampled(Outcome.SKELETON, 1.0, tuple(places(5, 6)))
    assert read_sampled(about, "another").positions == ()
    more = located(assembled(spans=[span(2)], positions=places(9)), places(5, 6, 9))
    assert read_sampled(more.trace.metadata, TOPIC).positions == tuple(places(5, 6, 9))
    whole = Sampler(SamplingPolicy())
    kept = whole.apply(trace, whole.decide(trace, NO_TABLE)).trace
    assert kept is not None
    assert "spanferry.sampling.records" not in kept.trace.metadata


def test_what_nobody_sampled_is_whole_and_odd_weights_are_one():
    assert read_sampled({}, TOPIC) == Sampled(Outcome.FULL)
    for text in ("nan", "inf", "-1", "0", "x"):
        assert read_sampled({"spanferry.sampling.weight": text}, TOPIC).weight == 1.0
    assert read_sampled({"spanferry.sampling.weight": "2.5"}, TOPIC).weight == 2.5


def test_more_of_a_trace_without_metadata_can_say_it_too():
    one = located(assembled(trace=TracePart(tags={"a": "1"})), [position(4)])
    assert one.trace.tags == {"a": "1"}
    assert one.trace.metadata == {"spanferry.sampling.records": "spanferry.traces/0:4"}
