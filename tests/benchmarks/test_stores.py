"""The stores' benchmark: its page is what its results say, its traces are what they seem."""

import msgspec
import pytest

from benchmarks.machine import conditions
from benchmarks.store_traces import MAKES, make_traces
from benchmarks.stores_document import PAGE, RESULTS, document
from benchmarks.stores_report import EndToEnd, Result, Row


def row(way: str, *per_second: float) -> Row:
    return Row("PostgreSQL", way, "10 KB", 200, 60, list(per_second), [1.0] * len(per_second), 0.5)


def test_a_page_shows_medians_and_ratios_of_rounds() -> None:
    result = Result(
        conditions(), False, [row("spanferry", 100, 300, 900), row("MLflow", 10, 15, 30)]
    )
    result.end_to_end.append(EndToEnd(2, 2_000, 1_999, 512.4))
    page = document(result)
    assert "| spanferry | 300 (100-900) | 100% (100%-100%) | 20.0 times | 0.50 |" in page
    assert "| MLflow | 15 (10-30) | 100% (100%-100%) | - | 0.50 |" in page
    assert "| 2 | 2,000 | 1,999 | 512 |" in page
    assert "do not quote" not in page


def test_a_short_run_says_so() -> None:
    assert "do not quote" in document(Result(conditions(), True, [row("MLflow", 1)]))


def test_the_published_page_is_that_of_the_published_results() -> None:
    published = msgspec.json.decode(RESULTS.read_bytes(), type=Result)
    assert not published.quick
    remedy = "run: python -m benchmarks.stores_document"
    assert PAGE.read_text() == document(published), remedy


@pytest.mark.parametrize("payload", ["1 KB", "10 KB"])
def test_traces_have_the_size_they_are_named_by_and_are_new(payload: str) -> None:
    made = make_traces(payload, 45)
    assert len({one.trace_id for one in made}) == 45
    for one in made:
        assert len(one.spans) == 5
        assert 0.85 < one.size / MAKES[payload] < 1.3
