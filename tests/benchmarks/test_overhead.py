"""The benchmark runs, counts what arrives and reports what it promises. Nothing here is timed."""

import pickle
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.overhead import CASES, Options, run
from benchmarks.payloads import SHAPES, json_bytes, make_payload
from benchmarks.report import Report, make_row, markdown, percentile
from benchmarks.stub import span_trace_ids
from benchmarks.subject import BlockResult
from tests.services.kafka import KafkaServer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_a_payload_has_the_size_it_says(shape: str, size: int) -> None:
    payload = make_payload(shape, size, seed=7)

    assert json_bytes(payload) == pytest.approx(size, rel=0.02)
    assert payload == make_payload(shape, size, seed=7)
    assert payload != make_payload(shape, size, seed=8)
    assert pickle.loads(pickle.dumps(payload)) == payload


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]

    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([3.0], 0.99) == 3


def test_the_stub_finds_every_span_of_an_otlp_request() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    for trace in (b"a" * 16, b"b" * 16):
        spans = request.resource_spans.add()
        spans.resource.attributes.add(key="service.name").value.string_value = "x" * 300
        scope = spans.scope_spans.add()
        scope.scope.name = "benchmarks"
        for number in range(3):
            span = scope.spans.add(trace_id=trace, span_id=bytes(8), name="n" * 200)
            span.start_time_unix_nano = 2**60 + number
            span.attributes.add(key="input.value").value.string_value = "y" * 20_000

    found = list(span_trace_ids(request.SerializeToString()))

    assert found == [b"a" * 16] * 3 + [b"b" * 16] * 3


def test_the_cases_can_be_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--list", "--only", "1 MB"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    names = done.stdout.splitlines()
    assert names == [case.name for case in CASES if "1 MB" in case.name]
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_row_takes_the_median_of_its_blocks_and_ratios_of_neighbours() -> None:
    theirs = [_block(milliseconds) for milliseconds in (10, 30, 20)]
    ours = [_block(milliseconds) for milliseconds in (1, 2, 5)]

    row = make_row(NAMES, theirs, ours, lost=4)

    assert (row.p50, row.p50_low, row.p50_high, row.max) == (20, 10, 30, 31)
    assert (row.ratio, row.ratio_low, row.ratio_high) == (10, 4, 15)
    assert (row.samples, row.made, row.lost) == (300, 306, 4)
    assert row.p99 == 30
    assert row.p99_unqueued == 29.5
    assert row.rate == pytest.approx(50)
    assert row.lag_p99 is None


def test_a_p99_needs_enough_samples() -> None:
    few = make_row(NAMES, [_block(10, samples=50)], [], lost=0)

    assert few.p99 is None
    assert few.ratio is None


@pytest.mark.kafka
def test_a_tiny_run_reports_every_sdk_and_case(kafka: KafkaServer) -> None:
    wanted = ["10 KB/tight/with", "10 KB/paced 100/s/decorated", "10 KB/loop 100/s/with"]
    cases = [case for case in CASES if case.name in wanted]

    report = run(Options(blocks=1, scale=0.02), cases, kafka)

    decoded = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert decoded == report
    assert {(row.case, row.sdk) for row in report.rows} == {
        *((name, sdk) for name in wanted for sdk in ("spanferry", "mlflow")),
        *((name, "otel") for name in wanted[::2]),
        (wanted[2], "untraced"),
    }
    for row in report.rows:
        assert len(row.blocks) == 1
        assert 0 < row.p50_low <= row.p50 <= row.p50_high <= row.max
        assert row.samples == row.blocks[0].samples < row.made
        assert row.lost == 0
        assert (row.lag_p99 is None) == (not row.mode.startswith("loop"))
        assert row.ratio is not None
    sent = sum(row.made for row in report.rows if row.sdk == "spanferry")
    assert report.kafka_records == report.kafka_records_expected == sent
    table = markdown(report)
    assert table.count("| mlflow |") == table.count("| spanferry |") == len(wanted)
    assert report.conditions.commit in table


NAMES = {"case": "c", "payload": "10 KB", "mode": "tight", "style": "with", "sdk": "mlflow"}


def _block(milliseconds: int, samples: int = 100) -> BlockResult:
    """All traces but one took so long, half a millisecond of it waiting; one took 1 ms more."""
    wall_ns = [milliseconds * 1_000_000] * (samples - 1) + [milliseconds * 1_000_000 + 1_000_000]
    return BlockResult(
        wall_ns=wall_ns,
        cpu_ns=wall_ns,
        queued_ns=[500_000] * samples,
        lag_ns=[],
        made=samples + 2,
        elapsed_s=samples / 50,
        process_cpu_ns=sum(wall_ns),
        flush_s=0.1,
        flushed=True,
        quiet=True,
        rss_mb=50.0,
        counters={},
    )
