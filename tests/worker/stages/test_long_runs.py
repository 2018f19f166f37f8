"""A trace that stays open for hours: written as it stands, added to, and never in the way of a commit."""

from spanferry_schemas import End, Fragment
from spanferry_worker.stages.assemble import AssemblePolicy, Assembler
from spanferry_worker.stages.commit import OffsetTracker
from spanferry_worker.stages.decode import Decoded
from spanferry_worker.stages.trace import AssembledTrace, FinishReason
from tests.worker.events import T0_MS, fragment, position, span, whole

HOURS_MS = 6 * 3_600_000
STEP_MS = 5_000
POLICY = AssemblePolicy(idle_s=30, age_s=300, late_grace_s=1, feedback_grace_s=5)
LONG, SHORT = 1, 1_000


class Partition:
    """Records with their times, and what a worker does with them; what is decided is stored at once."""

    def __init__(self) -> None:
        self.assembler = Assembler(POLICY)
        self.tracker = OffsetTracker()
        self.times: list[int] = []
        self.written: list[AssembledTrace] = []

    def take(self, event: Fragment, now_ms: int) -> None:
        offset = len(self.times)
        self.times.append(now_ms)
        self.tracker.begin(offset)
        trace = self.assembler.add(Decoded(event, [position(offset)], 100), now_ms)
        self._store([] if trace is None else [trace])

    def expire(self, now_ms: int) -> None:
        self._store(self.assembler.expire(now_ms))

    def _store(self, traces: list[AssembledTrace]) -> None:
        for trace in traces:
            self.written.append(trace)
            self.tracker.done(place.offset for place in trace.positions)

    def behind_ms(self, now_ms: int) -> int:
        """How old the first record is that could not be committed."""
        watermark = self.tracker.watermark()
        assert watermark is not None
        return now_ms - self.times[watermark] if watermark < len(self.times) else 0

    def of(self, trace_id: int) -> list[AssembledTrace]:
        wanted = trace_id.to_bytes(16, "big")
        return [trace for trace in self.written if trace.trace_id == wanted]


def run_for_hours(every_ms: int) -> Partition:
    """An agent whose spans end now and then for six hours, among other traces."""
    partition, spans = Partition(), 0
    for now_ms in range(T0_MS, T0_MS + HOURS_MS, STEP_MS):
        if (now_ms - T0_MS) % every_ms == 0:
            spans += 1
            partition.take(fragment(LONG, [span(spans + 1, parent=1)]), now_ms)
        partition.take(whole(SHORT + (now_ms - T0_MS) // STEP_MS, 1), now_ms)
        partition.expire(now_ms)
        assert partition.behind_ms(now_ms) <= POLICY.age_s * 1000, (
            "an open trace pins the watermark"
        )
    partition.take(fragment(LONG, [span(1)], end=End(spans + 1)), T0_MS + HOURS_MS)
    partition.expire(T0_MS + HOURS_MS + 31_000)
    return partition


def test_a_run_of_hours_that_never_rests():
    partition = run_for_hours(every_ms=10_000)
    first, *more = partition.of(LONG)
    assert (first.reason, first.complete) == (FinishReason.AGE, False)
    assert {trace.reason for trace in more} == {FinishReason.LATE}
    assert more[-1].complete, "with the root's end all that was announced is there"
    spans = [one.span_id for trace in partition.of(LONG) for one in trace.spans]
    assert len(spans) == len(set(spans)) == HOURS_MS // 10_000 + 1, "each span is written once"
    assert partition.tracker.undecided == 0
    assert partition.behind_ms(T0_MS + HOURS_MS) == 0


def test_a_run_of_hours_with_long_pauses():
    partition = run_for_hours(every_ms=20 * 60_000)
    assert partition.of(LONG)[0].reason is FinishReason.IDLE
    assert sum(len(trace.spans) for trace in partition.of(LONG)) == 6 * 3 + 1
    assert partition.tracker.undecided == 0


def test_a_run_of_hours_that_other_traces_have_pushed_out_of_memory():
    """More traces come meanwhile than are remembered: its spans open it anew, and are written by idle
    and age like any others."""
    policy = AssemblePolicy(idle_s=30, age_s=300, released_traces_max=10)
    partition = Partition()
    partition.assembler = Assembler(policy)
    for step in range(200):
        now_ms = T0_MS + step * 60_000
        partition.take(fragment(LONG, [span(step + 2, parent=1)]), now_ms)
        for other in range(20):
            partition.take(whole(SHORT + step * 20 + other, 1), now_ms)
        for tick_ms in range(now_ms, now_ms + 60_000, 10_000):
            partition.expire(tick_ms)
            assert partition.behind_ms(tick_ms) <= policy.age_s * 1000
    assert sum(len(trace.spans) for trace in partition.of(LONG)) == 200
