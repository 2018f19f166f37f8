"""commit: nothing undecided lies below the watermark."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spanferry_worker.stages.commit import OffsetTracker


def test_the_watermark_waits_for_the_first_undecided_record():
    tracker = OffsetTracker()
    assert tracker.watermark() is None
    assert all(tracker.begin(offset) for offset in (5, 6, 9))
    assert tracker.watermark() == 5
    tracker.done([6, 9])
    assert tracker.watermark() == 5
    tracker.done([5])
    assert tracker.watermark() == 10


def test_the_age_is_that_of_the_first_undecided_record():
    tracker = OffsetTracker()
    assert tracker.oldest_ms is None
    tracker.begin(5, 1000)
    tracker.begin(6, 3000)
    assert tracker.oldest_ms == 1000
    tracker.done([5])
    assert tracker.oldest_ms == 3000
    tracker.done([6])
    assert tracker.oldest_ms is None


def test_a_gap_in_the_offsets_is_passed():
    tracker = OffsetTracker()
    tracker.begin(5)
    tracker.begin(100)
    tracker.done([5])
    assert tracker.watermark() == 100


def test_an_offset_that_was_passed_is_refused():
    tracker = OffsetTracker()
    tracker.begin(5)
    assert tracker.begin(5) is False
    assert tracker.begin(4) is False
    assert tracker.undecided == 1


class Tracking(RuleBasedStateMachine):
    """Against a plain set."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.undecided: set[int] = set()
        self.next = 0

    @rule(gap=st.integers(0, 3))
    def begin(self, gap: int) -> None:
        offset = self.next + gap
        assert self.tracker.begin(offset)
        self.undecided.add(offset)
        self.next = offset + 1

    @precondition(lambda self: self.undecided)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        some = data.draw(st.sets(st.sampled_from(sorted(self.undecided))))
        self.tracker.done(some)
        self.tracker.done(some)
        self.undecided -= some

    @invariant()
    def never_passes_an_undecided_record(self) -> None:
        watermark = self.tracker.watermark()
        expected = min(self.undecided, default=self.next)
        assert watermark == (expected if self.next else None)


TestTracking = Tracking.TestCase
