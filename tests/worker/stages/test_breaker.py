"""The breaker: who waits, who may pass, and when it is too much."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spanferry_worker.stages.breaker import BreakerPolicy, DeadLetterBreaker
from tests.worker.events import T0_MS

COUNT_MIN = 10
HOLD_S = 30
POLICY = BreakerPolicy(ratio_max=0.5, window=100, count_min=COUNT_MIN, hold_s=HOLD_S)
EARLY = 20
"""Records until it can tell: of these `COUNT_MIN` dead ones are half."""


def breaker(policy: BreakerPolicy = POLICY) -> DeadLetterBreaker[int]:
    return DeadLetterBreaker(policy)


def hold_all(some: DeadLetterBreaker[int], cases: Iterable[int], now_ms: int = T0_MS) -> bool:
    """Whether it trips at any of them."""
    tripped = False
    for case in cases:
        tripped |= some.hold(case, 1, now_ms)
    return tripped


def test_it_trips_when_most_would_be_dead_and_lets_none_of_them_pass():
    some = breaker()
    for _ in range(COUNT_MIN - 1):
        assert not some.hold(0, 1, T0_MS)
        assert some.passing(T0_MS) == []
    assert some.hold(0, 1, T0_MS)


def test_it_bears_what_is_below_the_ratio_and_holds_none_of_it():
    some = breaker()
    some.saw_good(EARLY)
    for number in range(500):
        some.saw_good(1)
        assert not some.hold(number, 1, T0_MS)
        assert some.passing(T0_MS) == [number]


def test_the_first_wait_until_it_can_tell():
    some = breaker()
    some.saw_good(EARLY - 3)
    hold_all(some, range(2))
    assert some.passing(T0_MS) == []
    some.saw_good(1)
    assert some.passing(T0_MS) == [0, 1]
    assert not some.holds


def test_what_waits_passes_once_enough_good_ones_have_come():
    some = breaker()
    hold_all(some, range(COUNT_MIN - 1))
    some.saw_good(COUNT_MIN - 2)
    assert some.passing(T0_MS) == []
    some.saw_good(3)
    assert some.passing(T0_MS) == list(range(COUNT_MIN - 1))
    assert (some.seen, some.bad) == (EARLY, COUNT_MIN - 1)


def test_alone_it_waits_as_long_as_it_must_and_no_longer():
    some = breaker()
    some.hold(7, 1, T0_MS)
    some.hold(8, 1, T0_MS + 1_000)
    assert some.due_in_ms(T0_MS + 10_000) == 20_000
    assert some.passing(T0_MS + 29_999) == []
    assert some.passing(T0_MS + 30_000) == [7]
    assert some.due_in_ms(T0_MS + 30_000) == 1_000
    assert some.passing(T0_MS + 31_000) == [8]
    assert some.due_in_ms(T0_MS + 31_000) is None


def test_those_that_have_passed_count_on():
    some = breaker()
    hold_all(some, range(COUNT_MIN - 1))
    assert len(some.passing(T0_MS + HOLD_S * 1_000)) == COUNT_MIN - 1
    assert some.hold(0, 1, T0_MS + HOLD_S * 1_000)


def test_it_forgets_the_good_of_long_ago():
    some = breaker()
    for _ in range(10_000):
        some.saw_good(1)
    tripped = False
    for _ in range(60):
        tripped |= some.hold(0, 1, T0_MS)
        some.passing(T0_MS)
    assert tripped


def test_it_never_trips_on_good():
    some = breaker(BreakerPolicy(ratio_max=0.5, window=100, count_min=COUNT_MIN, hold_s=0))
    hold_all(some, range(COUNT_MIN - 1))
    some.saw_good(1)
    assert len(some.passing(T0_MS)) == COUNT_MIN - 1


def test_switched_off_it_holds_nobody():
    some = breaker(BreakerPolicy(ratio_max=1, hold_s=HOLD_S))
    for number in range(5_000):
        assert not some.hold(number, 1, T0_MS)
        assert some.passing(T0_MS) == [number]


def test_who_is_dropped_has_never_come():
    some = breaker()
    hold_all(some, range(8))
    assert some.drop(lambda number: number % 2 == 0) == [0, 2, 4, 6]
    assert (some.seen, some.bad) == (4, 4)
    assert some.drop(lambda _: False) == []
    assert some.passing(T0_MS + HOLD_S * 1_000) == [1, 3, 5, 7]


def test_a_value_in_pieces_counts_as_all_of_them():
    some = breaker()
    assert some.hold(0, COUNT_MIN, T0_MS)


@pytest.mark.parametrize("wrong", [{"ratio_max": 0}, {"count_min": 0}, {"hold_s": -1}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BreakerPolicy(**wrong)


LIVES = st.lists(
    st.one_of(
        st.tuples(st.just("junk"), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=60,
)


@given(LIVES)
@example([("junk", 9), ("restart", 0)] * 20)
@example([("junk", 9), ("wait", 30)] * 3)
def test_trickled_junk_passes_no_faster_however_often_it_is_begun_anew(lives):
    """Each life reads again what has not passed; it ends where the breaker says so, or in a restart."""
    some, waiting, next_id, now_s = breaker(), [], 0, 0
    passed: list[tuple[int, int]] = []
    is_running = True
    for what, number in lives:
        if what == "junk":
            new = list(range(next_id, next_id + number))
            next_id += number
            waiting += new
            if is_running:
                is_running = not hold_all(some, new, now_s * 1_000)
        elif what == "restart":
            some, is_running = breaker(), True
            is_running = not hold_all(some, waiting, now_s * 1_000)
        for _ in range(number if what == "wait" else 1):
            now_s += what == "wait"
            for one in some.passing(now_s * 1_000) if is_running else []:
                waiting.remove(one)
                passed.append((now_s, one))
    assert [one for _, one in passed] == list(range(len(passed)))
    for begin_s, _ in passed:
        assert sum(begin_s <= at_s < begin_s + HOLD_S for at_s, _ in passed) < COUNT_MIN
