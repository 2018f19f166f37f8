"""Who is to blame for what looks like an illness: only who fails again and again beside what is stored."""

from spanferry_worker.stages.suspects import Suspects

SMALL, LARGE = 1_000, 20_000_000


def test_a_load_is_halved_after_a_few_tries() -> None:
    suspects = Suspects()
    assert [suspects.failed(["a", "b"], SMALL, at) for at in range(3)] == [False, False, True]
    assert suspects.failed(["a"], SMALL, 4), "its halves as well"
    assert not suspects.failed(["a", "new"], SMALL, 5)
    suspects.taken(["a"])
    assert not suspects.failed(["a"], SMALL, 6)


def test_a_span_is_to_blame_after_some_minutes_of_failing() -> None:
    suspects = Suspects()
    many = [suspects.struck("a", SMALL, at / 10) for at in range(1_000)]
    assert not any(many), "often, but not for long"
    assert suspects.struck("a", SMALL, Suspects.OVER_S)
    few = [suspects.struck("b", SMALL, at * Suspects.OVER_S) for at in range(5)]
    assert few == [False] * 4 + [True], "for long, but not often"


def test_an_illness_absolves_all() -> None:
    suspects = Suspects()
    for at in range(4):
        suspects.failed(["a", "b"], SMALL, at)
        assert not suspects.struck("a", SMALL, at * 100)
    suspects.absolve()
    assert not suspects.struck("a", SMALL, 500)
    assert not suspects.failed(["a", "b"], SMALL, 500)


def test_of_large_spans_that_were_to_blame_the_next_ones_are_known() -> None:
    suspects = Suspects()
    for at in range(5):
        blamed = suspects.struck("a", LARGE, at * 60)
    assert blamed
    assert suspects.failed(["b", "c"], LARGE, 300), "halved at once"
    assert not suspects.failed(["d", "e"], LARGE - 1, 300)
    assert [suspects.struck("b", LARGE, at) for at in (300, 301)] == [False, True]
    late = 301 + Suspects.KNOWN_S + 1
    assert not suspects.failed(["f", "g"], LARGE, late)
    assert not any(suspects.struck("f", LARGE, late + at) for at in (0, 1))


def test_of_small_spans_nothing_is_learnt() -> None:
    suspects = Suspects()
    assert any(suspects.struck("a", SMALL, at * 60) for at in range(5))
    assert not any(suspects.struck("b", LARGE, 300 + at) for at in (0, 1))


def test_what_is_kept_is_bounded() -> None:
    suspects = Suspects()
    for number in range(30_000):
        suspects.failed([str(number)], SMALL, number)
        suspects.struck(str(number), SMALL, number)
    assert len(vars(suspects)["_failed"]) == len(vars(suspects)["_struck"]) == 10_000
