"""The benchmark of sampling runs, and says what it measured."""

from benchmarks.sampling import POLICIES, make_traces, measure, table


def test_a_tiny_run_has_every_policy() -> None:
    rows = measure(make_traces(100), 3)
    assert [row.policy for row in rows] == list(POLICIES)
    assert all(len(row.decide_us) == 3 and min(row.decide_us) > 0 for row in rows)
    shares = {row.policy: row.cut_share for row in rows}
    assert shares["everything whole"] == 0 < shares["the default"] < 0.5
    assert all(f"| {name} |" in table(rows) for name in POLICIES)
