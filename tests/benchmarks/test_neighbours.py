"""What is made of the clocks of a giant's neighbours, and of the guard's. Nothing here is timed."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import guard, neighbours_report
from benchmarks.guard import WAYS
from benchmarks.native_counts import TOOLS, callgrind_count, perf_count
from benchmarks.neighbours import GIANT_BYTES, Beat, Phase, giant, seen_of
from benchmarks.neighbours_report import ALONE, RECORDED, SENT, Report, Seen, make_rows, section
from benchmarks.payloads import json_bytes
from benchmarks.report import Figure
from spanferry import giants
from tests.benchmarks.made import CONDITIONS

MS = 1_000_000


def test_a_trace_counts_where_it_was_due_or_under_way() -> None:
    phases = [Phase(RECORDED, 10 * MS, 20 * MS), Phase(SENT, 20 * MS, 50 * MS)]
    beats = [
        Beat(1 * MS, 1 * MS, 2 * MS),  # before
        Beat(9 * MS, 21 * MS, 22 * MS),  # was due before, waited for all of it
        Beat(30 * MS, 31 * MS, 35 * MS),  # while it was sent
        Beat(50 * MS, 51 * MS, 52 * MS),  # after
    ]

    one = seen_of("spanferry", 10, 0, beats, phases)

    assert one.inside_us == {RECORDED: [1000.0], SENT: [1000.0, 4000.0]}
    assert one.late_us == {RECORDED: [12000.0], SENT: [12000.0, 1000.0]}
    assert (one.record_ms, one.send_ms) == ([10.0], [30.0])


def made() -> Report:
    seen = [
        Seen(
            way=way,
            megabytes=10,
            round=number,
            inside_us={RECORDED: [50.0] * 99 + [900.0 + number], SENT: [60.0]},
            late_us={RECORDED: [100.0] * 98 + [5000.0] * 2, SENT: [70.0]},
            record_ms=[12.0],
            send_ms=[80.0],
        )
        for number in range(3)
        for way in (ALONE, "spanferry")
    ]
    return Report(
        conditions=CONDITIONS,
        quick=False,
        threads=4,
        rate=400.0,
        buffer_bytes=256 * 2**20,
        giant_bytes=GIANT_BYTES,
        rows=make_rows(seen),
    )


def test_rows_have_the_spread_of_the_rounds() -> None:
    row = made().row("spanferry", 10, RECORDED)

    assert row is not None
    assert (row.samples, row.inside_p50, row.inside_max) == (300, 0.05, 0.902)
    assert row.inside_p99 == Figure(0.05, 0.05, 0.05)
    assert row.late_p99 == Figure(5.0, 5.0, 5.0)
    assert (row.giants, row.giant_p50) == (3, 12.0)
    assert made().row("bridge", 10, RECORDED) is None


def test_the_section_has_a_line_for_every_way_and_phase() -> None:
    text = section(made())

    assert "### Beside 10 MB" in text
    assert "| no giant | - | 0.050 |" in text
    assert "| spanferry API | while it is recorded | 0.050 |" in text
    assert "| spanferry API | while it is sent | 0.060 |" in text
    assert "0123456789ab" in text
    assert msgspec.json.decode(msgspec.json.encode(made()), type=Report) == made()
    assert giants.GIANT_BYTES == GIANT_BYTES


def test_a_giant_is_as_large_as_it_says() -> None:
    assert json_bytes(giant(2, of=1)) == pytest.approx(2e6, rel=0.05)


def test_the_guards_section_has_a_line_for_every_way() -> None:
    rows = [
        guard.Row(
            api=api,
            way=way,
            span_ns=Figure(8_000.0, 7_000.0, 9_000.0),
            more_ns=Figure(6_400.0, 6_000.0, 7_000.0),
        )
        for api in guard.APIS
        for way in WAYS
    ]
    report = guard.Report(
        conditions=CONDITIONS,
        quick=False,
        rounds=15,
        rows=rows,
        idle_us=0.3,
        look_us=20.0,
        read_us=2.0,
    )

    text = guard.section(report)

    assert "| all | 6,400 ns (6,000 to 7,000) | 6,400 ns (6,000 to 7,000) |" in text
    assert "| one of 16, from all | 400 ns | 400 ns |" in text
    assert "| one of 128, from all | 50.0 ns | 50.0 ns |" in text
    assert "| a whole span, none watched | 8,000 ns | 8,000 ns |" in text


def test_the_published_guard_is_below_a_microsecond_a_span() -> None:
    report = guard.read()
    assert report is not None
    assert not report.quick
    for row in report.rows:
        if row.way == "all":
            assert 0 < row.more_ns.median / WAYS["one of 16"][0] < 1_000, row


def test_results_that_are_not_there_have_no_section(tmp_path: Path) -> None:
    assert guard.read(tmp_path / "guard.json") is None
    assert neighbours_report.read(tmp_path / "neighbours.json") is None


def test_counters_are_read_as_they_print() -> None:
    assert perf_count("123456,,instructions:u,1000,100.00,,\n") == 123_456
    assert perf_count("<not supported>,,instructions:u,0,100.00,,\n") is None
    assert perf_count("") is None
    said = "==12== Events    : Ir\n==12== Collected : 987654\n==12== \n"
    assert callgrind_count(said) == 987_654
    assert callgrind_count("==12== nothing") is None
    assert [tool.name for tool in TOOLS] == ["perf", "callgrind"]
