"""assemble, whatever comes in whatever order: nothing is lost, nothing is made, one trace comes of it."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from spanferry_schemas import End, Fragment, Span, TracePart
from spanferry_worker.stages.assemble import AssemblePolicy, Assembler
from spanferry_worker.stages.trace import AssembledTrace
from tests.worker.events import T0_MS, attachment, decoded, feedback, fragment, number, span
from tests.worker.stages.held import held_spans

POLICY = AssemblePolicy(
    idle_s=10,
    age_s=60,
    late_grace_s=1,
    feedback_grace_s=3,
    released_traces_max=3,
    giant_bytes=3_000,
    giant_attribute_bytes_max=64,
)


class Assembling(RuleBasedStateMachine):
    """Spans in = spans out + spans held + repeats; records in = records out + records held."""

    @initialize()
    def start(self) -> None:
        self.assembler = Assembler(POLICY)
        self.now_ms = T0_MS
        self.offsets = 0
        self.bytes_in = 0
        self.spans_in = 0
        self.attachments: set[tuple[int, int]] = set()
        self.out: list[AssembledTrace] = []

    def feed(self, event) -> None:
        item = decoded(event, self.offsets, number(self.offsets))
        self.offsets += 1
        self.bytes_in += item.size
        trace = self.assembler.add(item, self.now_ms)
        self.out += [] if trace is None else [trace]

    @rule(
        trace_id=st.integers(1, 4),
        spans=st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=4),
        end=st.none() | st.builds(End, st.integers(0, 4), st.integers(0, 1), st.booleans()),
    )
    def add_fragment(self, trace_id: int, spans: list[tuple[int, bool]], end: End | None) -> None:
        self.spans_in += len(spans)
        made = [span(i, payload=i * 40, **({} if ended else {"end_ns": 0})) for i, ended in spans]
        self.feed(fragment(trace_id, made, end=end, part=TracePart(tags={"t": "1"})))

    @rule(trace_id=st.integers(1, 4), size=st.integers(0, 50))
    def add_attachment(self, trace_id: int, size: int) -> None:
        self.attachments.add((trace_id, self.offsets))
        self.feed(fragment(trace_id, attachments=[attachment(self.offsets, size)]))

    @rule(trace_id=st.none() | st.integers(1, 4), name=st.integers(1, 3))
    def add_feedback(self, trace_id: int | None, name: int) -> None:
        self.feed(feedback(name, trace_id, None if trace_id else f"req-{name}"))

    @rule(seconds=st.sampled_from([0.1, 1, 5, 30]))
    def let_time_pass(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        self.out += self.assembler.expire(self.now_ms)

    @rule()
    def evict(self) -> None:
        trace = self.assembler.evict()
        self.out += [] if trace is None else [trace]

    @rule()
    def fold_the_idlest(self) -> None:
        held = self.assembler.held_bytes
        freed = self.assembler.fold_idlest()
        assert self.assembler.held_bytes == held - (freed or 0) <= held

    @rule()
    def cut_the_largest(self) -> None:
        held = self.assembler.held_bytes
        freed = self.assembler.cut_giant()
        assert self.assembler.held_bytes == held - (freed or 0) <= held

    @invariant()
    def spans_are_conserved(self) -> None:
        out = sum(len(trace.spans) for trace in self.out)
        held, repeated = held_spans(self.assembler), self.assembler.spans_repeated
        assert self.spans_in == out + held + repeated

    @invariant()
    def what_is_held_is_counted(self) -> None:
        """At least what its records have, apart from what was cut; nothing where nothing is held."""
        held_bytes = self.assembler.held_bytes
        assert (held_bytes > 0) == (self.assembler.held_traces > 0)
        assert held_bytes >= 850 * self.assembler.held_traces + 10 * held_spans(self.assembler)

    @invariant()
    def records_come_out_once(self) -> None:
        offsets = Counter(place.offset for trace in self.out for place in trace.positions)
        assert all(count == 1 for count in offsets.values())

    def teardown(self) -> None:
        self.out += self.assembler.drain()
        self.spans_are_conserved()
        assert self.assembler.held_bytes == 0
        assert self.bytes_in == sum(trace.size for trace in self.out)
        offsets = sorted(place.offset for trace in self.out for place in trace.positions)
        assert offsets == list(range(self.offsets))
        attached = [(t.trace_id, a.attachment_id) for t in self.out for a in t.attachments]
        wanted = [(number(of), attachment(name).attachment_id) for of, name in self.attachments]
        assert sorted(attached) == sorted(wanted)
        assert self.assembler.held_traces == 0


TestAssembling = Assembling.TestCase


@st.composite
def distributed_traces(draw: st.DrawFn) -> list[Fragment]:
    """One trace as several services send it, each in several fragments."""
    services = draw(st.integers(1, 3))
    events: list[Fragment] = []
    span_id = 0
    for service in range(services):
        mine: list[Span] = []
        for _ in range(draw(st.integers(1, 5))):
            span_id += 1
            mine.append(span(span_id))
        cut = draw(st.integers(0, len(mine)))
        end = End(len(mine), services - 1 if service == 0 else 0, remote_parent=service > 0)
        part = TracePart(tags={f"service-{service}": "1"}, metadata={f"m{service}": "1"})
        if cut:
            events.append(fragment(1, mine[:cut]))
        events.append(fragment(1, mine[cut:], end=end, part=part))
    return events


def content(trace: AssembledTrace) -> object:
    return (
        {each.span_id: each for each in trace.spans},
        trace.trace,
        trace.complete,
    )


def assemble(events: list[tuple[int, Fragment]]) -> list[AssembledTrace]:
    assembler = Assembler(POLICY)
    out = [
        assembler.add(decoded(e, i, number(origin)), T0_MS) for i, (origin, e) in enumerate(events)
    ]
    return [*(trace for trace in out if trace is not None), *assembler.drain()]


@given(distributed_traces(), st.randoms(use_true_random=False), st.integers(0, 4))
def test_any_order_with_repeats_gives_the_same_trace(
    events: list[Fragment], rng: random.Random, doubled: int
):
    numbered = list(enumerate(events))
    [expected] = assemble(numbered)
    assert expected.complete
    # A repeat after the trace was complete comes out as a late addition, so keep one back.
    last = numbered.pop(rng.randrange(len(numbered)))
    shuffled = numbered + [rng.choice(numbered) for _ in range(doubled) if numbered]
    rng.shuffle(shuffled)
    [trace] = assemble([*shuffled, last])
    assert content(trace) == content(expected)
