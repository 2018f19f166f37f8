"""The benchmark runs, counts what arrives and reports what it promises. Nothing here is timed."""

import importlib.util
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import msgspec
import pytest

from benchmarks import overhead
from benchmarks.cases import ALL, MAIN, SERIES
from benchmarks.overhead import Options, run
from benchmarks.payloads import SHAPES, SpanPayload, json_bytes, make_payload, make_tree
from benchmarks.report import Report
from benchmarks.sdks import TIERS, missing_package
from benchmarks.stub import Backend, run_trace_ids, span_trace_ids
from benchmarks.tables import main_table, printed
from tests.benchmarks.made import report as made
from tests.services.kafka import KafkaServer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_a_payload_has_the_size_it_says(shape: str, size: int) -> None:
    payload = make_payload(shape, size, seed=7)

    assert json_bytes(payload) == pytest.approx(size, rel=0.02)
    assert payload == make_payload(shape, size, seed=7)
    assert payload != make_payload(shape, size, seed=8)
    assert pickle.loads(pickle.dumps(payload)) == payload


def test_small_payloads_and_small_dicts() -> None:
    rows = make_payload("rows", 1_000_000, seed=1)

    assert json_bytes(make_payload("chat", 1_000, seed=1)) == pytest.approx(1_000, rel=0.1)
    assert len(rows.retriever[1]) + len(rows.tool[1]) + len(
        rows.chain[0]["facts"]
    ) == pytest.approx(15_000, rel=0.02)


@pytest.mark.parametrize("spans", [1, 5, 20, 50, 200])
def test_a_tree_has_its_spans_and_its_size(spans: int) -> None:
    def count(span: SpanPayload) -> int:
        return 1 + sum(count(child) for child in span.children)

    tree = make_tree(spans, 10_000, seed=3)

    assert count(tree) == spans
    assert json_bytes(tree) == pytest.approx(10_000, rel=0.02)


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


def test_the_stub_finds_every_ended_run_of_a_langsmith_request() -> None:
    def part(name: str, body: bytes) -> bytes:
        head = (
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Length: {len(body)}'
        )
        return head.encode() + b"\r\n\r\n" + body + b"\r\n"

    text = b'{"text": "\\r\\n\\r\\n name=\\"post.x\\""}'
    request = (
        part("post.r1", b'{"trace_id": "t1"}')
        + part("post.r1.inputs", text)
        + part("patch.r1", b'{"trace_id": "t1"}')
        + part("patch.r1.outputs", text)
        + part("post.r2", b'{"trace_id": "t2"}')
        + part("post.r2.inputs", text)
        + part("post.r2.outputs", text)
        + part("post.r3", b'{"trace_id": "t3"}')
        + b"--x--\r\n"
    )

    assert list(run_trace_ids(request)) == [b"t1", b"t2"]


def test_the_stub_counts_whole_traces_once_each_time_it_is_asked() -> None:
    def otlp(trace: bytes) -> bytes:
        span = b"\x0a" + bytes([len(trace)]) + trace
        scope = b"\x12" + bytes([len(span)]) + span
        resource = b"\x12" + bytes([len(scope)]) + scope
        return b"\x0a" + bytes([len(resource)]) + resource

    backend = Backend()
    gzipped = zlib.compressobj(wbits=31)
    backend.answer("/otel/v1/traces", otlp(b"a"))
    backend.answer("/otel/v1/traces", gzipped.compress(otlp(b"a")) + gzipped.flush())
    backend.answer("/otel/v1/traces", otlp(b"b"))

    first = msgspec.json.decode(backend.answer("/taken/otel/2", b"")[2])
    second = msgspec.json.decode(backend.answer("/taken/otel/2", b"")[2])

    assert first == {"complete": 1, "traces": 2, "finalised": 0}
    assert second == {"complete": 0, "traces": 0, "finalised": 0}


def test_the_cases_can_be_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--full", "--list", "--only", "1 MB"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    names = done.stdout.splitlines()
    assert names == [case.name for case in ALL if "1 MB" in case.name]
    assert len({case.name for case in ALL}) == len(ALL)


def test_a_series_has_its_cases_once_and_its_points_in_order() -> None:
    for series in SERIES:
        points = [(point.x, point.case.how) for point in series.points]
        assert len({point.case.name for point in series.points}) == len(points)
        assert all(set(point.case.tiers) <= set(TIERS) for point in series.points)
        if series.axis:
            assert points == sorted(points, key=lambda point: point[0])


def test_a_peer_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is one that was not asked for, and nothing of it is started."""
    asked: list[Options] = []

    def pretend(options: Options, cases: object) -> Report:
        asked.append(options)
        return made(missing=options.missing, rows=[])

    monkeypatch.setattr(overhead, "run", pretend)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "langfuse" else found(name)
    )
    out = ["--out", str(tmp_path / "x.json")]

    assert overhead.main(["--peers", "--quick", *out]) == 0
    assert overhead.main(["--quick", *out]) == 0

    with_peers, without = asked
    assert with_peers.missing["langfuse"] == "langfuse is not installed"
    assert "langfuse" not in with_peers.tiers
    assert without.missing["langsmith"] in {
        "not asked for (--peers)", "langsmith is not installed"
    }  # fmt: skip
    assert "Langfuse (langfuse is not installed)" in capsys.readouterr().out
    assert (tmp_path / "x.json").exists()


@pytest.mark.kafka
def test_a_tiny_run_reports_every_tier_and_case(kafka: KafkaServer) -> None:
    wanted = [
        "10 KB/tight",
        "1 MB/paced 20/s",
        "10 KB/20 spans/paced 20/s/tree",
        "10 KB/tight/8 threads",
        "10 KB/async 100/s",
        "10 KB/tight/decorated",
    ]
    cases = [case for case in ALL if case.name in wanted]
    assert len(cases) == len(wanted)
    tiers = tuple(tier for tier in TIERS if missing_package(tier) is None)

    report = run(Options(tiers=tiers, blocks=1, series_blocks=1, scale=0.03), cases, kafka)

    decoded = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert decoded == report
    assert {(row.case, row.tier) for row in report.rows} == {
        (case.name, tier) for case in cases for tier in case.tiers if tier in tiers
    }
    for row in report.rows:
        assert len(row.blocks) == 1
        assert 0 < row.p50.low <= row.p50.median <= row.p50.high <= row.max
        assert row.samples == row.blocks[0].samples < row.made
        assert row.lost == 0, (row.case, row.tier)
        assert (row.lag_p99 is not None) == ("async" in row.case)
        assert (row.encode_ratio is not None) == ("1 MB" in row.case)
    sent = sum(row.made for row in report.rows if TIERS[row.tier].back_end == "kafka")
    assert report.kafka_records == report.kafka_records_expected >= sent
    text = printed(report)
    assert text.count("| spanferry API |") >= len(MAIN[:1])
    assert main_table(report, MAIN[2]) in text
    assert report.conditions.commit in text


@pytest.mark.kafka
def test_a_quick_run_ends_with_verdicts(kafka: KafkaServer, tmp_path: Path) -> None:
    out = tmp_path / "quick.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.overhead", "--quick", "--only", "tight",
            "--blocks", "1", "--tiers", "spanferry", "otel",
            "--out", str(out),
        ],
        cwd=ROOT,
        env={**os.environ, "SPANFERRY_TEST_KAFKA": kafka.bootstrap_servers},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    assert (report.run, len(report.rows)) == ("quick", 2)
    measured = [one for one in report.verdicts if one.measured]
    assert len(measured) == 2
    assert all(one.holds is not None for one in measured)
    assert "## Promises" in done.stdout
