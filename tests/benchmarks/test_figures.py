"""Statistics, verdicts and tables: from samples to what is printed."""

import msgspec
import pytest

from benchmarks.cases import MAIN, SERIES
from benchmarks.report import Report, Row, make_row, percentile, ratio
from benchmarks.tables import (
    encode_table,
    lag_table,
    main_table,
    measured_series,
    number,
    printed,
    series_table,
    summary_table,
)
from benchmarks.verdicts import PACED, ROWS, STRINGS, TIGHT, verdicts
from tests.benchmarks.made import P50_MS, block, report


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]

    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([3.0], 0.99) == 3


def test_a_row_has_the_median_of_its_blocks_and_the_spread() -> None:
    row = make_row("c", "mlflow", [block(ms) for ms in (10, 30, 20)], lost=4)

    assert (row.p50.median, row.p50.low, row.p50.high, row.max) == (20, 10, 30, 31)
    assert row.p99 is not None
    assert (row.p99.median, row.p99.low, row.p99.high) == (21, 11, 31)
    assert (row.p99_pooled, row.best_p99) == (30, 21)
    assert row.p99_unqueued == 29.5
    assert (row.samples, row.made, row.lost) == (300, 306, 4)
    assert row.rate.median == pytest.approx(50)
    assert (row.lag_p99, row.encode_p50, row.encode_ratio) == (None, None, None)


def test_a_p99_needs_enough_samples() -> None:
    short = make_row("c", "mlflow", [block(10, samples=50)], lost=0)
    shorts = make_row("c", "mlflow", [block(10, samples=50)] * 3, lost=0)

    assert (short.p99, short.p99_pooled, short.best_p99) == (None, None, None)
    assert (shorts.p99, shorts.best_p99) == (None, 11)


def test_encodes_are_compared_within_their_block() -> None:
    row = make_row("c", "spanferry", [block(2, encode=1), block(9, encode=3)], lost=0)

    assert row.encode_p50 is not None
    assert row.encode_ratio is not None
    assert row.encode_p50.median == 2
    assert (row.encode_ratio.low, row.encode_ratio.high) == (2, 3)


def test_a_ratio_is_that_of_the_table_and_its_spread_that_of_neighbours() -> None:
    theirs = make_row("c", "mlflow", [block(ms) for ms in (10, 30, 20)], lost=0)
    ours = make_row("c", "spanferry", [block(ms) for ms in (1, 2, 5)], lost=0)

    p50, p99 = ratio(theirs, ours, "p50"), ratio(theirs, ours, "p99")

    assert p50 is not None
    assert p99 is not None
    assert (p50.median, p50.low, p50.high) == (20 / 2, 4, 15)
    assert p99.median == pytest.approx(21 / 3)


def test_a_ratio_of_short_blocks_is_of_all_their_samples() -> None:
    theirs = make_row("c", "mlflow", [block(9, samples=60)] * 2, lost=0)
    ours = make_row("c", "spanferry", [block(1, samples=60)] * 2, lost=0)
    once = make_row("c", "spanferry", [block(1, samples=60)], lost=0)

    p99 = ratio(theirs, ours, "p99")

    assert p99 is not None
    assert (p99.median, p99.low, p99.high) == (5, 5, 5)
    assert ratio(theirs, once, "p99") is None


def test_a_ratio_may_leave_out_what_both_have() -> None:
    theirs = make_row("c", "otel", [block(ms) for ms in (10, 30, 20)], lost=0)
    ours = make_row("c", "spanferry", [block(ms) for ms in (2, 4, 5)], lost=0)
    none = make_row("c", "untraced", [block(ms) for ms in (1, 2, 1)], lost=0)

    p50 = ratio(theirs, ours, "p50", less=none)

    assert p50 is not None
    assert (p50.median, p50.low, p50.high) == (6.333, 4.75, 14)  # (20 - 1) / (4 - 1)
    assert ratio(theirs, ours, "p50", less=theirs) is None


def test_every_promise_gets_a_verdict() -> None:
    found = {(one.promise, one.where): one for one in report().verdicts}

    def measured(part: str, where: str) -> tuple[float | None, bool | None]:
        (one,) = (v for (promise, at), v in found.items() if part in promise and at == where)
        return one.measured.median if one.measured else None, one.holds

    assert measured("API, p50: 1/5 of OpenTelemetry's", PACED) == (6, True)
    assert measured("p50 above no tracing", PACED) == (6.102, True)  # 299 by 49 us
    assert measured("1/2 of OpenTelemetry's", TIGHT) == (1.455, False)  # 1.6 by 1.1 ms
    assert measured("only pops", TIGHT) == (9, True)
    assert measured("20 times under MLflow's into a stub", PACED) == (6.667, False)  # 8 by 1.2 ms
    assert measured("30 times", ROWS) == (35, True)
    assert measured("at most 1 ms", PACED) == (1.2, False)
    # 1 MB: 100 times 0.05 and 0.1 ms in the first block, twice that in the second; encode 0.5 ms
    assert measured("spanferry API, long strings", STRINGS[0]) == (20, False)
    assert measured("MLflow API on spanferry, long strings", STRINGS[1]) == (40, False)
    assert len(found) == 19


def test_what_was_not_measured_is_no_verdict() -> None:
    none = report(rows=[])

    assert len(none.verdicts) == 19
    assert {one.holds for one in none.verdicts} == {None}
    assert printed(none).count("not measured") == 19


def test_an_encode_ratio_within_the_promise_holds() -> None:
    row = make_row(STRINGS[0], "spanferry", [block(1.4, encode=0.5)], lost=0)

    one = next(v for v in verdicts(report(rows=[row])) if v.where == STRINGS[0] and v.measured)

    assert one.measured is not None
    assert (one.measured.median, one.holds) == (2.8, True)


def test_tables_show_every_tier_with_its_figures() -> None:
    made = report()

    for case in MAIN:
        lines = main_table(made, case).splitlines()
        assert len(lines) == 2 + len(case.tiers)
        assert lines[2].startswith("| spanferry API | 0.100 (0.050-0.150) | 1.10 (1.05-1.15) |")
        assert "| 70.0 (70.0-70.0) | 0 of 306 |" in lines[6]
    summary = summary_table(made).splitlines()
    assert summary[0] == "|  | paced 100/s | paced 1000/s | tight |"
    assert summary[2] == "| spanferry API | 0.100 / 1.10 | 0.100 / 1.10 | 0.100 / 1.10 |"


def test_series_have_a_line_for_each_point_and_a_column_for_each_tier() -> None:
    made = report()
    by_name = {series.name: series_table(made, series).splitlines() for series in SERIES}

    assert {series.name for series in measured_series(made)} == set(by_name)
    for series in SERIES:
        assert len(by_name[series.name]) == 2 + len(series.points)
    # tiers of the main table only have no column in a series
    assert "Langfuse" not in by_name["size"][0]
    assert by_name["size"][0].count("|") == 7
    assert by_name["size"][5].startswith("| 1 MB | 10.0 / 11.0 |")
    assert "plain" in by_name["decorator"][0]
    assert lag_table(made).count("| 2.00 | 2.00 |") == 6
    assert "| 1 MB/paced 20/s | 20.0 (10.0-30.0) | 40.0 (20.0-60.0) |" in encode_table(made)


def test_a_series_of_which_only_the_main_case_ran_is_left_out() -> None:
    main_only = [row for row in report().rows if row.case == PACED]

    assert measured_series(report(rows=main_only)) == []


def test_losses_are_said() -> None:
    row = make_row(PACED, "mlflow", [block(2)], lost=51)
    made = report(rows=[row])

    assert "lost 50 %" in summary_table(made)
    assert "| 51 of 102 |" in main_table(made, MAIN[0])


def test_the_print_ends_with_the_promises_and_names_what_is_missing() -> None:
    text = printed(report(missing={"langfuse": "langfuse is not installed"}))

    assert "Not measured: Langfuse (langfuse is not installed)." in text
    assert "0123456789ab" in text
    assert text.rindex("## ") == text.index("## Promises")


def test_a_report_survives_its_file() -> None:
    made = report()

    assert msgspec.json.decode(msgspec.json.encode(made), type=Report) == made


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0512, "0.051"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_numbers_have_the_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_made_figures_cover_every_tier() -> None:
    assert {row.tier for row in report().rows} == set(P50_MS)
    assert all(isinstance(row, Row) for row in report().rows)
