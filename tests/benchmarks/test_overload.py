"""What a worker has taken in memory under overload, as it is published: as little as is promised."""

import msgspec
import pytest

from benchmarks.overload import LIMIT_BYTES, RESULTS, Figures, Report

PUBLISHED = msgspec.json.decode(RESULTS.read_bytes(), type=Report)


def the(traffic: str) -> Figures:
    """The one run of a kind of traffic, with the store as fast as it is by default."""
    [found] = [
        one for one in PUBLISHED.figures if one.traffic == traffic and one.bulk and is_default(one)
    ]
    return found


def is_default(figures: Figures) -> bool:
    return figures.limit_mb == pytest.approx(LIMIT_BYTES / 1e6, abs=0.01)


def kept(figures: Figures) -> None:
    """The promise: the limit + 150 MB, under ten times as much, for ten minutes, with no loss."""
    assert figures.seconds >= 600
    assert figures.times >= 10
    assert figures.beyond_mb <= 150
    assert figures.dead == 0


@pytest.mark.parametrize("one", PUBLISHED.figures, ids=lambda one: f"{one.limit_mb:.0f} MB")
def test_the_published_runs_keep_the_promise(one: Figures) -> None:
    kept(one)


def test_it_was_a_run_of_the_defaults() -> None:
    figures = the("mixed")
    assert 150 < figures.idle_mb < 350
    assert figures.paused_share > 0.5, "intake has to stand, or the store is not the bottleneck"
    held_max_mb = min(268.4, figures.limit_mb - figures.idle_mb)
    assert figures.held_peak_mb > 0.8 * held_max_mb, "the limit was reached"
    assert len(figures.peaks_mb) >= 10
    assert max(figures.peaks_mb) == pytest.approx(figures.peak_mb, abs=1)
    assert not PUBLISHED.conditions.uncommitted_changes


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 599.0},
        {"times": 9.9},
        {"peak_mb": 537.0 + 151.0},
        {"dead": 1},
    ],
)
def test_a_run_that_does_not_is_found_out(wrong: dict[str, float]) -> None:
    good = Figures(
        traffic="mixed",
        bulk=True,
        seconds=600.0,
        limit_mb=537.0,
        idle_mb=251.0,
        peak_mb=537.0 + 150.0,
        times=10.0,
    )
    kept(good)
    with pytest.raises(AssertionError):
        kept(msgspec.structs.replace(good, **wrong))
