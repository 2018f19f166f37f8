"""The rolling restart's benchmark: what is called recovered, lost and doubled, and what is published."""

import msgspec
import pytest

from benchmarks.machine import conditions
from benchmarks.rolling_document import PAGE, page, paragraph
from benchmarks.rolling_report import (
    RESULTS,
    SPANS,
    WORKERS,
    Figures,
    Look,
    Report,
    Restart,
    Stored,
    longest_stand_s,
    recovery_s,
)

READY = 100.0


def looks(*lags: int, begin: float = READY) -> list[Look]:
    """One a second."""
    return [Look(begin + second, [1_000], [1_000 - lag]) for second, lag in enumerate(lags)]


def test_recovery_counts_from_readiness() -> None:
    assert recovery_s(looks(5, 5, 5, 5), READY, 5) == 0
    assert recovery_s(looks(90, 40, 6, 5, 5, 4, 5), READY, 5) == 3


def test_what_was_low_before_readiness_says_nothing() -> None:
    before = looks(0, 0, 0, 0, 0, begin=READY - 5)
    assert recovery_s([*before, *looks(50, 50, 5, 5, 5, 5)], READY, 5) == 2


def test_low_between_two_commits_is_not_recovered() -> None:
    assert recovery_s(looks(90, 3, 90, 3, 90, 5, 5, 5, 5), READY, 5) == 5
    assert recovery_s(looks(90, 3, 90, 3, 90, 5, 5, 5), READY, 5) is None


def test_a_partition_stands_while_its_own_offset_does() -> None:
    seen = [Look(at, [9, 9], [at, 5 if at < 7 else 6]) for at in range(10)]
    assert longest_stand_s(seen, 0, 9) == 7
    assert longest_stand_s(seen, 4, 9) == 3
    assert longest_stand_s(seen, 20, 30) == 0


def figures(**rows: int) -> Figures:
    stored = {"traces": 10, "spans": 10 * SPANS, "assessments": 1, "uneven": 0} | rows
    return Figures(
        membership="static",
        rate=100,
        lag_before=5,
        stand_before_s=1,
        stand_s=2,
        restarts=[],
        traces=10,
        judged=1,
        stored=Stored(**stored),
    )


@pytest.mark.parametrize(
    ("rows", "lost", "doubled"),
    [
        ({}, 0, 0),
        ({"traces": 9}, 1, 0),
        ({"spans": 10 * SPANS + 2}, 0, 2),
        ({"assessments": 2}, 0, 1),
        ({"assessments": 0, "spans": 10 * SPANS - 1}, 2, 0),
        ({"uneven": 2}, 0, 2),
    ],
)
def test_spans_and_assessments_count_as_traces_do(rows, lost, doubled) -> None:
    one = figures(**rows)
    assert (one.lost, one.doubled) == (lost, doubled)


def test_the_paragraph_says_what_was_measured() -> None:
    one = figures(spans=10 * SPANS + 2)
    one.restarts = [
        Restart(
            stop_s=1, boot_s=0.5, store_s=store_s, join_s=2, lag_peak=store_s * 100, recovery_s=3
        )
        for store_s in (4, 6, 5)
    ]
    said = paragraph(Report(conditions(), [one]))
    row = "1.0 s (1.0) | 0.5 s (0.5) | 5.0 s (6.0) | 2.0 s (2.0) | 5 | 600 | 3.0 s (3.0) | 1.0 s | 2.0 s |"
    assert f"| with names (`--group-instance-id`) | {row}\n" in said
    assert "10 traces of 5 spans and 1 assessments: 0 lost, 2 doubled" in said
    one.restarts[1].recovery_s = None
    assert "| not within a minute |" in paragraph(Report(conditions(), [one]))


def published() -> Report:
    return msgspec.json.decode(RESULTS.read_bytes(), type=Report)


def test_the_published_restarts_have_lost_and_doubled_nothing_and_caught_up() -> None:
    report = published()
    assert [one.membership for one in report.figures] == ["dynamic", "static"]
    for one in report.figures:
        assert one.rate >= 100
        assert one.judged == one.traces // 10 > 100
        assert (one.lost, one.doubled) == (0, 0)
        assert len(one.restarts) == WORKERS
        for restart in one.restarts:
            _assert_measured(restart, one)


def _assert_measured(restart: Restart, one: Figures) -> None:
    assert restart.recovery_s is not None
    assert restart.recovery_s <= 30
    assert restart.lag_peak > 0
    assert min(restart.boot_s, restart.store_s) > 0.1
    assert one.stand_s >= one.stand_before_s / 2


def test_what_was_published_was_measured_on_an_idle_machine() -> None:
    conditions = published().conditions
    assert conditions.load_1m < conditions.cores
    assert not conditions.uncommitted_changes


def test_the_page_is_that_of_the_published_run() -> None:
    assert PAGE.read_text() == page(published()), "run: python -m benchmarks.rolling_document"
