"""What a worker's other traces wait for beside huge ones: how that is read, and what is published."""

import msgspec
import pytest

from benchmarks.crowds import KINDS, RESULTS, Figures, Report, quantile

PUBLISHED = msgspec.json.decode(RESULTS.read_bytes(), type=Report)
INF = float("inf")


def test_quantiles_are_read_within_a_bucket() -> None:
    counts = {0.1: 0.0, 0.2: 50.0, 0.4: 100.0, INF: 100.0}
    assert quantile(counts, 0.5) == pytest.approx(0.2)
    assert quantile(counts, 0.25) == pytest.approx(0.15)
    assert quantile(counts, 0.75) == pytest.approx(0.3)
    assert quantile({0.1: 9.0, INF: 10.0}, 0.99) == 0.1, "no more is known than that it is above"


@pytest.mark.parametrize("one", PUBLISHED.figures, ids=lambda one: one.kind)
def test_the_published_run_kept_its_memory_and_lost_nothing(one: Figures) -> None:
    assert one.peak_mb <= one.limit_mb + 150
    assert one.dead == 0
    assert one.quiet.traces > 400
    assert one.megabytes > {"giant": 195, "wide": 5, "crowd": 5}[one.kind]


def test_all_kinds_are_published_from_committed_code() -> None:
    assert [one.kind for one in PUBLISHED.figures] == list(KINDS)
    assert not PUBLISHED.conditions.uncommitted_changes
