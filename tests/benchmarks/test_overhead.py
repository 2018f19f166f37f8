"""The benchmark runs, counts what arrives and reports what it promises. Nothing here is timed."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.overhead import CASES, Options, run
from benchmarks.payloads import SHAPES, json_bytes, make_payload
from benchmarks.report import Report, markdown, percentile
from benchmarks.stub import span_trace_ids
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


@pytest.mark.kafka
def test_a_tiny_run_reports_every_sdk_and_case(kafka: KafkaServer) -> None:
    wanted = [case for case in CASES if case.payload == "10 KB" and case.rate < 1000]
    options = Options(blocks=2, scale=0.02)

    report = run(options, wanted, kafka)

    decoded = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert decoded == report
    present = {(row.case, row.sdk) for row in report.rows}
    for case in wanted:
        styles = {"spanferry", "mlflow"} | ({"otel"} if case.style == "with" else set())
        expected = styles | ({"untraced"} if case.untraced else set())
        assert {sdk for name, sdk in present if name == case.name} == expected
    for row in report.rows:
        assert len(row.blocks) == options.blocks
        assert 0 < row.p50_low <= row.p50 <= row.p50_high <= row.max
        assert row.samples == sum(block.samples for block in row.blocks) < row.made
        assert row.lost == 0
        assert (row.lag_p99 is None) == (not row.mode.startswith("loop"))
        assert row.ratio is not None
    assert report.kafka_records == report.kafka_records_expected
    ours = [row for row in report.rows if row.sdk == "spanferry"]
    assert report.kafka_records == sum(row.made for row in ours)


@pytest.mark.kafka
def test_the_table_names_every_row_and_its_conditions(kafka: KafkaServer) -> None:
    cases = [case for case in CASES if case.payload == "10 KB" and case.mode != "paced"]
    report = run(Options(sdks=("spanferry", "otel"), blocks=1, scale=0.01), cases, kafka)

    table = markdown(report)

    assert table.count("| spanferry |") == table.count("| otel |") == len(cases)
    assert report.conditions.commit in table
    assert json.dumps(report.conditions.python).strip('"') in table
