"""How many writes run at once, before, during and after an outage, and how large they are."""

from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.stages.pace import BatchPace, WritePace


def test_one_at_a_time_while_the_store_fails_and_one_more_for_each_that_succeeds():
    pace = WritePace(4)
    assert [pace.begin() for _ in range(5)] == [True] * 4 + [False]
    pace.end(available=False)
    assert not pace.begin(), "the others are still out"
    for _ in range(3):
        pace.end(available=False)
    assert pace.begin()
    assert not pace.begin()
    pace.end(available=True)
    assert [pace.begin() for _ in range(3)] == [True, True, False]
    pace.end(available=True)
    pace.end(available=True)
    assert [pace.begin() for _ in range(5)] == [True] * 4 + [False]


@given(st.lists(st.sampled_from(["begin", "answer", "failure"])), st.integers(1, 4))
def test_never_more_than_may_and_one_always_may(steps: list[str], most: int):
    pace = WritePace(most)
    for step in steps:
        if step == "begin":
            pace.begin()
        elif pace.running:
            pace.end(available=step == "answer")
        assert 1 <= pace.allowed <= most
        assert 0 <= pace.running <= most
    for _ in range(pace.running):
        pace.end(available=False)
    assert pace.begin()


def test_batches_begin_small_and_grow_as_long_as_they_are_quick():
    pace = BatchPace(200)
    shares = []
    while pace.share < 1:
        shares.append(pace.share)
        pace.wrote(int(200 * pace.share), pace.share, 0.1, available=True)
    assert shares[0] * 200 < 10
    assert len(shares) == 5


def test_a_slow_store_gets_batches_that_take_two_seconds():
    pace = BatchPace(200)
    pace.share = 1.0
    for _ in range(20):
        traces = max(1, round(200 * pace.share))
        pace.wrote(traces, traces / 200, traces / 5, available=True)
    assert round(200 * pace.share) == 10
    for _ in range(20):
        pace.wrote(1, 1 / 200, 60.0, available=True)
    assert round(200 * pace.share) == 10, "one alone cannot be smaller"


def test_slow_writes_that_ran_beside_each_other_count_once():
    pace = BatchPace(200)
    pace.share = 1.0
    for _ in range(4):
        pace.wrote(200, 1.0, 20.0, available=True)
    assert pace.share == 0.1


def test_a_batch_that_is_not_full_says_nothing_of_larger_ones():
    pace = BatchPace(200)
    before = pace.share
    pace.wrote(1, 0.005, 0.01, available=True)
    assert pace.share == before


def test_a_store_that_is_away_makes_batches_no_larger_and_one_that_times_out_smaller():
    pace = BatchPace(200)
    pace.share = 0.5
    pace.wrote(100, 0.5, 0.01, available=False)
    assert pace.share == 0.5
    pace.wrote(100, 0.5, 20.0, available=False)
    assert pace.share == 0.05


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0, 100), st.booleans())))
def test_a_batch_may_always_have_a_trace_and_never_more_than_the_most(steps):
    pace = BatchPace(200)
    for traces, took_s, available in steps:
        pace.wrote(traces, traces / 200, took_s, available=available)
        assert 1 <= round(200 * pace.share) <= 200
