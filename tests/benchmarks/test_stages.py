"""The stages' benchmark: its page is what its results say, and what it passes on is all that it counts."""

import dataclasses
import statistics

import msgspec
import pytest

from benchmarks.machine import conditions
from benchmarks.stage_records import make_records, make_values, pass_through
from benchmarks.stages_document import PAGE, RESULTS, TWO_PROCESSES, document
from benchmarks.stages_report import Result, Row
from benchmarks.store_traces import MAKES
from spanferry_schemas import Fragment, decode
from spanferry_worker.settings import SampleSettings, Settings

PUBLISHED = msgspec.json.decode(RESULTS.read_bytes(), type=Result)


def row(source: str, processes: int, *per_second: float, of_one: float = 1.8) -> Row:
    ones = [of_one if processes == 2 else 1.0] * len(per_second)
    return Row(source, "10 KB", processes, 600, 5, 11_000.0, list(per_second), ones, 40.0)


def test_a_page_shows_medians_ratios_and_peers() -> None:
    rows = [row("memory", 1, 100, 20_000, 90_000), row("memory", 2, 40_000), row("kafka", 1, 8_000)]
    page = document(Result(conditions(), False, rows))
    assert "| 10 KB | 1 | 20,000 (100-90,000) | 100,000 | 220 | 40.0 | - |" in page
    assert (
        "| 10 KB | 2 | 40,000 (40,000-40,000) | 200,000 | 440 | 40.0 | 1.80 (1.80-1.80) |" in page
    )
    assert "| spanferry's stages, 10 KB a trace | 100,000 | this page |" in page
    assert "| spanferry's runtime, from Kafka, 10 KB a trace | 40,000 | this page |" in page
    assert "do not quote" not in page


def test_a_short_run_says_so() -> None:
    assert "do not quote" in document(Result(conditions(), True, [row("memory", 1, 1)]))


def test_the_published_page_is_that_of_the_published_results() -> None:
    remedy = "run: python -m benchmarks.stages_document"
    assert PAGE.read_text() == document(PUBLISHED), remedy
    assert not PUBLISHED.quick, "a short run is not to be published"


def test_what_does_not_come_to_twice_has_a_sentence() -> None:
    page = document(Result(conditions(), False, [row("kafka", 2, 40_000, of_one=1.57)]))
    assert "Of 10 KB two processes take 1.57 times what one takes, which is less than 1.8." in page
    assert "sends 440 MB/s of records" in page
    assert "less than" not in document(Result(conditions(), False, [row("kafka", 2, 40_000)]))


@pytest.mark.parametrize("source", ["memory", "kafka"])
def test_the_published_stages_are_as_fast_as_they_have_to_be(source: str) -> None:
    found = {
        one.processes: one
        for one in PUBLISHED.rows
        if (one.source, one.payload) == (source, "10 KB")
    }
    for one in found.values():
        assert one.spans == 5
        assert 9_000 < one.value_bytes < 13_000
        assert len(one.per_second) == len(one.of_one) >= 5
    assert statistics.median(found[1].per_second) >= 10_000, "traces a second"
    assert statistics.median(found[2].of_one) >= TWO_PROCESSES


def test_the_published_stages_had_the_machine_for_themselves() -> None:
    assert PUBLISHED.conditions.load_1m < 1
    assert not PUBLISHED.conditions.uncommitted_changes


@pytest.mark.parametrize("payload", ["1 KB", "10 KB"])
def test_records_are_whole_traces_of_their_size(payload: str) -> None:
    for key, value, meta in make_values(payload, 20):
        event = decode(value)
        assert isinstance(event, Fragment)
        assert (event.trace_id, len(event.spans), meta.spans) == (key, 5, 5)
        payloads = sum(len(text) for span in event.spans for text in span.attributes.values())
        assert 0.85 < payloads / MAKES[payload] < 1.3


def test_every_trace_comes_out_and_is_committed() -> None:
    records = make_records("1 KB", 1_300)
    assert sum(map(len, records.values())) == 1_300
    assert pass_through(records, Settings()) == 1_300


def test_what_is_cut_comes_out_too() -> None:
    records = make_records("10 KB", 60)
    assert pass_through(records, Settings(sample=SampleSettings(target_bytes=1_000))) == 60


def test_a_trace_that_does_not_come_out_is_missed() -> None:
    records = make_records("1 KB", 60)
    place = next(iter(records.values()))
    place[-1] = dataclasses.replace(place[-1], value=b"junk")
    with pytest.raises(AssertionError):
        pass_through(records, Settings())
