"""How many writes run at once, before, during and after an outage."""

from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.stages.pace import WritePace


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
