"""The account as OpenTelemetry's SDK collects it."""

import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

import spanferry
from spanferry import client, metrics
from spanferry.metrics.rows import ROWS, Kind
from spanferry.testing import capture
from tests.producer.traffic import send


def collected(reader: InMemoryMetricReader) -> dict[str, float]:
    """Numbers by `name{label}`."""
    data = reader.get_metrics_data()
    return {
        f"{metric.name}{{{','.join(map(str, (point.attributes or {}).values()))}}}": point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def deltas() -> InMemoryMetricReader:
    return InMemoryMetricReader({ObservableCounter: AggregationTemporality.DELTA})


def provider(*readers: InMemoryMetricReader) -> MeterProvider:
    return MeterProvider(metric_readers=readers, shutdown_on_exit=False)


def test_the_account_is_observed(enable: Callable[..., None], reader: InMemoryMetricReader) -> None:
    metrics.register_opentelemetry(provider(reader))
    assert collected(reader)["spanferry.app.enabled{}"] == 0
    enable()
    send(2000, 1000)
    stats, found = spanferry.stats(), collected(reader)
    assert found["spanferry.app.traces{}"] == 2000
    assert found["spanferry.app.traces_settled{dropped}"] == stats.traces_dropped > 0
    assert found["spanferry.app.parcels_dropped{buffer_full}"] == stats.traces_dropped
    assert found["spanferry.app.buffered{}"] == stats.buffered_bytes > 0
    assert found["spanferry.app.enabled{}"] == 1


def test_instruments_have_units_and_kinds(reader: InMemoryMetricReader) -> None:
    metrics.register_opentelemetry(provider(reader))
    data = reader.get_metrics_data()
    assert data is not None
    [scope] = data.resource_metrics[0].scope_metrics
    assert scope.scope.name == "spanferry"
    found = {one.name: one for one in scope.metrics}
    for row in ROWS:
        if row.read(spanferry.stats()):
            one = found.pop(row.opentelemetry_name)
            assert (one.unit, one.description) == (row.unit, row.text)
            monotonic = getattr(one.data, "is_monotonic", None)
            expected = {Kind.COUNTER: True, Kind.SUM: False, Kind.HIGHEST: None}
            assert monotonic is expected[row.kind], row.name
    assert not found


def test_a_second_time_changes_nothing(
    enable: Callable[..., None], reader: InMemoryMetricReader
) -> None:
    readers = provider(reader)
    metrics.register_opentelemetry(readers)
    metrics.register_opentelemetry(readers)
    enable()
    send(3)
    assert collected(reader)["spanferry.app.traces{}"] == 3


def test_counters_do_not_go_back_when_tracing_goes_off_and_on(
    enable: Callable[..., None], reader: InMemoryMetricReader, deltas: InMemoryMetricReader
) -> None:
    metrics.register_opentelemetry(provider(reader, deltas))
    for times in range(1, 4):
        enable()
        send(2000, 1000)
        spanferry.disable()
        assert collected(reader)["spanferry.app.traces{}"] == 2000 * times
        assert collected(deltas)["spanferry.app.traces{}"] == 2000


def test_a_test_that_captures_in_between_takes_nothing_back(
    enable: Callable[..., None], reader: InMemoryMetricReader
) -> None:
    """What captures counts redaction itself, from zero."""
    metrics.register_opentelemetry(provider(reader))
    enable(redact="field:ssn")
    with spanferry.start_span("one") as span:
        span.set_inputs({"ssn": "123-45-6789"})
    assert collected(reader)["spanferry.app.values_redacted{}"] == 1
    with capture():
        assert collected(reader)["spanferry.app.values_redacted{}"] == 1
    assert collected(reader)["spanferry.app.values_redacted{}"] == 1


def test_a_forked_process_reports_what_it_adds(
    enable: Callable[..., None], reader: InMemoryMetricReader, deltas: InMemoryMetricReader
) -> None:
    """Its readers are the parent's, with what these have collected before."""
    metrics.register_opentelemetry(provider(reader, deltas))
    enable()
    send(5)
    assert collected(reader)["spanferry.app.traces{}"] == 5
    assert collected(deltas)["spanferry.app.traces{}"] == 5
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        send(2)
        both = [collected(one)["spanferry.app.traces{}"] for one in (deltas, reader)]
        os.write(writing, msgspec.json.encode(both))
        os._exit(0)
    os.waitpid(child, 0)
    assert msgspec.json.decode(os.read(reading, 100)) == [2, 7]
    os.close(reading)
    os.close(writing)


def test_a_collection_never_raises(
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> None:
        raise RuntimeError("a fault of ours")

    readers = provider(reader)
    readers.get_meter("app").create_observable_gauge("theirs", [lambda _: []])
    metrics.register_opentelemetry(readers)
    monkeypatch.setattr(client, "stats", fails)
    assert collected(reader) == {}
    assert caplog.text.count("a fault of ours") == 1


def test_without_the_library_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import spanferry.metrics\nspanferry.metrics.register_opentelemetry()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install 'spanferry[opentelemetry]'" in ended.stderr
    assert ended.returncode == 1
