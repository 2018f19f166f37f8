"""The stores' benchmark: its page is what its results say, its traces are what they seem."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from benchmarks.machine import conditions
from benchmarks.store_traces import MAKES, make_traces
from benchmarks.stores_cpu import tree_cpu_s
from benchmarks.stores_document import DRIVERS, KAFKA, PAGE, RESULTS, document, read
from benchmarks.stores_fill import fill, template
from benchmarks.stores_plots import pictures
from benchmarks.stores_report import EndToEnd, Fill, Result, Row
from benchmarks.stores_rounds import Case, Pids, cases, filled_case, measure
from benchmarks.stores_verdicts import verdicts
from benchmarks.stores_ways import Store, columns
from tests.services.mlflow_tables import copy_tables
from tests.sinks.stores import dump

FEW = 30
COUNTED = ("trace_info", "trace_tags", "trace_request_metadata", "spans")


def row(way: str, *per_second: float, **fields: object) -> Row:
    made = Row("PostgreSQL", way, "10 KB", 200, 60, list(per_second), [1.0] * len(per_second), 0.5)
    return msgspec.structs.replace(made, **fields)


def test_a_page_shows_medians_and_ratios_of_rounds() -> None:
    served = row("spanferry", 100, 300, 900, trace_bytes=10_000, database_cpu_ms=0.4)
    result = Result(conditions(), False, [served, row("MLflow", 10, 15, 30, server_cpu_ms=7.0)])
    kafka = Result(conditions(), False, end_to_end=[EndToEnd(2, 2_000, 1_999, 512.4)])
    page = document(result, kafka=kafka)
    assert (
        "| spanferry | 300 (100-900) | 3.0 | 100% (100%-100%) | 20.0 times | 0.50 | 0.40 | - |"
        in page
    )
    assert "| MLflow | 15 (10-30) | - | 100% (100%-100%) | - | 0.50 | - | 7.00 |" in page
    assert "| 2 | 1 | 2,000 | 1,999 | 512 (512-512) |" in page
    assert "do not quote" not in page
    assert "PostgreSQL's drivers" not in page
    drivers = Result(conditions(), False, [row("asyncpg", 10, 20, 30, database_cpu_ms=0.4)])
    assert "| asyncpg | 20 (10-30) | 100% (100%-100%) | 0.500 | 0.400 |" in document(
        result, drivers
    )


def test_a_short_run_says_so() -> None:
    assert "do not quote" in document(Result(conditions(), True, [row("MLflow", 1)]))


def test_what_was_promised_is_told_from_ratios_of_one_round() -> None:
    full = row(
        "spanferry", 60, 70, 80, beside_full=True, stored=9, of_empty=[0.79, 0.79, 0.9],
        pages={"WAL bytes": 21_500.0, "spans_pk pages read": 2.5, "trace_tag_pk pages read": 0.01},
    )  # fmt: skip
    raw = row("raw", 60, 70, 80, beside_full=True, stored=9, of_empty=[0.5, 0.6, 0.7])
    two = row("spanferry, 2 processes", 9, 9, 9, of_raw=[0.6, 0.69, 0.8])
    rows = [row("spanferry", 90, 100, 110, of_raw=[0.7, 0.71, 0.2]), row("MLflow", 10, 9, 8), two]
    rows += [full, raw]
    result = Result(
        conditions(), False, rows, fills=[Fill("PostgreSQL", 9, 1.5, {"spans": 7.5, "x": 2.0})]
    )
    found = verdicts(result)
    assert [(one.measured, one.holds) for one in found] == [
        ("70% (20%-71%)", True), ("69% (60%-80%)", False), ("11.1 (9.0-13.8)", True),
        ("79% (79%-90%); raw itself 60%", False),
    ]  # fmt: skip
    page = document(result)
    assert "| 79% (79%-90%); raw itself 60% | **no** |" in page
    assert "9 traces, filled in 2 s. In MB: spans 8, x 2; 10 in all." in page
    assert "| WAL bytes | 21,500.00 |" in page
    assert "| spans_pk pages read | 2.50 |" in page
    assert "trace_tag_pk" not in page


def test_from_kafka_is_told_by_the_collectors_pipeline_for_each_number_of_processes() -> None:
    runs = [
        EndToEnd(processes, 9, 9, rate) for rate in (1111.0, 1010.0, 505.0) for processes in (2, 1)
    ]
    runs += [EndToEnd(3, 9, 9, 5050.0), EndToEnd(3, 9, 7, 5050.0), EndToEnd(4, 9, 9, 1009.0)]
    found = verdicts(Result(conditions(), False), runs)
    assert [(one.measured, one.holds) for one in found] == [
        ("10.0 (5.0-11.0)", True),
        ("10.0 (5.0-11.0)", True),
        ("50.0 (50.0-50.0), and 2 traces not stored", False),
        ("10.0 (10.0-10.0)", False),
    ]
    assert "1 worker process: at least 10 times the 101 traces/s" in found[0].promise
    assert "2 worker processes:" in found[1].promise
    assert all("measured in another run" in one.promise for one in found)


def test_every_way_and_size_is_drawn_at_its_place() -> None:
    rows = [row("raw", 100, 1000, 1000), row("spanferry", 100, 100, 100, trace_bytes=10_000)]
    rows += [row(way, 10, 20, 30, batch=1) for way in ("raw", "spanferry")]
    rows += [row("spanferry", 50, 50, 50, payload="1 MB", batch=8, trace_bytes=1_000_000)]
    drawn = pictures(Result(conditions(), False, rows))
    assert set(drawn) == {"ways", "batches", "sizes"}
    at = {name: _dots(text) for name, text in drawn.items()}
    assert (
        at["ways"]["PostgreSQL, raw: 1,000 traces/s"][0]
        > (at["ways"]["PostgreSQL, spanferry: 100 traces/s"][0])
    )
    assert "PostgreSQL, spanferry, 1: 20" in at["batches"]
    assert "PostgreSQL, spanferry, 1 MB: 50" in at["sizes"]
    assert not pictures(Result(conditions(), False, []))


def _dots(svg: str) -> dict[str, tuple[float, float]]:
    return {
        str(one[0].text): (float(one.attrib["cx"]), float(one.attrib["cy"]))
        for one in ET.fromstring(svg).iter()
        if one.tag.endswith("circle")
    }


def test_the_published_page_and_pictures_are_those_of_the_published_results() -> None:
    published, drivers, kafka = read(RESULTS), read(DRIVERS), read(KAFKA)
    assert not any(one.quick for one in (published, drivers, kafka))
    remedy = "run: python -m benchmarks.stores_{}"
    assert PAGE.read_text() == document(published, drivers, kafka), remedy.format("document")
    for name, drawn in pictures(published).items():
        path = RESULTS.with_name(f"stores-{name}.svg")
        assert path.read_text() == drawn, remedy.format(f"plots {RESULTS}")


@pytest.mark.parametrize("payload", ["1 KB", "10 KB"])
def test_traces_have_the_size_they_are_named_by_and_are_new(payload: str) -> None:
    made = make_traces(payload, 45)
    assert len({one.trace_id for one in made}) == 45
    for one in made:
        assert len(one.spans) == 5
        assert 0.85 < one.size / MAKES[payload] < 1.3


def test_the_cases_are_batches_of_1_to_2000_and_traces_of_1_kb_to_1_mb() -> None:
    made = list(cases(4, quick=False))
    assert {case.batch for case in made if case.payload == "10 KB"} >= {1, 200, 2000}
    assert {case.payload for case in made} == set(MAKES)
    # a batch for each writer at least, or none could show what it can
    assert all(case.counts["spanferry"] >= 4 * case.batch for case in made)
    assert filled_case(quick=False).counts["spanferry"] >= 4 * filled_case(quick=False).batch


def test_cpu_is_that_of_children_too_whether_they_live_or_not() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        f"with subprocess.Popen([sys.executable, '-c', {burn + 'print(1, flush=True); input()'!r}], "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:\n"
        "    child.stdout.readline(); print(1, flush=True); input(); child.kill()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        parent.stdout.readline()
        used = tree_cpu_s(parent.pid)
        parent.communicate(b"\n")
    assert 0.55 < used < 2
    assert tree_cpu_s(parent.pid) == 0
    assert tree_cpu_s(os.getpid()) > 0


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """With MLflow's tables, which are empty."""
    uri = copy_tables(tmp_path / "mlflow.db", str(tmp_path))
    if request.param == "PostgreSQL":
        uri = request.getfixturevalue("postgres").new_database()
    with contextlib.ExitStack() as stack:
        yield Store(request.param, uri, stack)


def test_full_tables_are_full_of_traces_like_the_template(store: Store) -> None:
    one = template(store)
    filled = fill(store.name, store.uri, one, columns(), FEW)
    assert filled.traces == FEW
    assert sum(filled.megabytes.values()) > 0
    found = dump(store.uri)
    assert len({row["request_id"] for row in found["trace_info"]}) == FEW
    assert len({row["session_id"] for row in found["trace_info"]}) == FEW // 3 + 1
    assert len({row["timestamp_ms"] for row in found["trace_info"]}) == FEW
    assert len(found["spans"]) == FEW * 5
    assert len(found["trace_tags"]) == FEW * len(one.tags)
    assert len(found["trace_request_metadata"]) == FEW * len(one.metadata)
    ids = {(span["trace_id"], span["span_id"]) for span in found["spans"]}
    assert len(ids) == FEW * 5
    parents = [(span["trace_id"], span["parent_span_id"]) for span in found["spans"]]
    assert sum(parent is None for _, parent in parents) == FEW
    assert {parent for parent in parents if parent[1]} <= ids
    assert _indexes_are_whole(store)


def test_full_tables_and_empty_ones_are_measured_in_turns(store: Store) -> None:
    fill(store.name, store.uri, template(store), columns(), FEW)
    with contextlib.ExitStack() as stack:
        full = Store(store.name, store.uri, stack, stored=FEW)
        case = Case("1 KB", 5, {"raw": 10, "spanferry": 10, "MLflow": 2}, 1)
        rows = measure(case, [store, full], Pids(os.getpid()))
    assert [(one.stored, one.way) for one in rows] == [
        (stored, way) for stored in (0, FEW) for way in ("raw", "spanferry", "MLflow")
    ]
    assert all(len(one.per_second) == 1 and one.trace_bytes > 800 for one in rows)
    for empty, other in zip(rows[:3], rows[3:], strict=True):
        assert other.of_empty == [
            pytest.approx(other.per_second[0] / empty.per_second[0], abs=1e-3)
        ]
    # twice, for the first round is for the caches
    assert len(dump(store.uri)["trace_info"]) == FEW + 2 * 2 * (10 + 10 + 2)


def _indexes_are_whole(store: Store) -> bool:
    """Whether they are used again, and agree with their tables."""
    if store.name == "SQLite":
        with contextlib.closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as raw:
            return bool(raw.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    with psycopg.connect(store.uri.replace("+psycopg", "")) as raw:
        found = raw.execute("SELECT count(*) FROM pg_index WHERE NOT indisready OR NOT indisvalid")
        (count,) = found.fetchone() or (1,)
        return bool(count == 0)


def test_a_disk_without_room_is_told_before_anything_is_filled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.stores_fill.DISK_BYTES", 10**15)
    with pytest.raises(RuntimeError, match="give --filled fewer"):
        fill(store.name, store.uri, template(store), columns(), FEW)
    assert dump(store.uri)["trace_info"] == []
