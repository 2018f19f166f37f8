"""Where light spans would not be what MLflow makes: MLflow makes its own, each trace arrives once."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.bridge.programs import Done, run

LIGHT = "spanferry.bridge.fluent"
MLFLOWS_OWN = "mlflow.entities.span"

ALL = [
    {"a": None, "b": "a", "c": "b"},
    {"d": None, "e": "d", "f": "e"},
    {"g": None, "h": "g"},
    {"i": None, "j": "i"},
    {"k": None},
]
"""What the program makes, trace by trace: every span's parent."""

ALL_NAMES = sorted(name for trace in ALL for name in trace)
BY_MLFLOWS_API = ["a", "c", "e", "g", "i", "j", "k"]

OTLP_ALONE = "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT=true"


class Collector:
    """What takes OTLP: the paths that were posted to, and the spans."""

    def __init__(self) -> None:
        self.url = ""
        self.paths: list[str] = []
        self.spans: list[str] = []
        self.experiments: set[str] = set()
        """Of the spans that were measured."""

    def variables(self, *signals: str) -> dict[str, str]:
        """What sends these signals (TRACES, METRICS) here."""
        found: dict[str, str] = {}
        for signal in signals:
            found[f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"] = f"{self.url}/{signal.lower()}"
            found[f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"] = "http/protobuf"
        return found


def names_of_spans(body: bytes) -> list[str]:
    return [
        span.name
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def measured_experiments(body: bytes) -> set[str]:
    return {
        label.value.string_value
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.histogram.data_points
        for label in point.attributes
        if label.key == "experiment_id"
    }


@pytest.fixture
def collector() -> Iterator[Collector]:
    taken = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.paths.append(self.path)
            if self.path == "/traces":
                taken.spans += names_of_spans(body)
            elif self.path == "/metrics":
                taken.experiments |= measured_experiments(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taken.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield taken
        server.shutdown()
        thread.join()


def assert_all_once(done: Done) -> None:
    """Every trace whole, every span handed over once, spanferry's own where they belong."""
    assert sorted(done["traces"], key=str) == sorted(ALL, key=str)
    assert done["complete"] == [True] * len(ALL)
    assert done["spans"] == ALL_NAMES
    assert done["ends"] == len(ALL)


def test_by_default_they_are_light(tmp_path: Path) -> None:
    done = run("nested", tmp_path, {})
    assert done["kinds"] == [LIGHT, "spanferry.bridge.light"]
    assert_all_once(done)
    assert not done["seen_by_opentelemetry"]
    assert done.errors == ""
    assert list(tmp_path.iterdir()) == []


def test_otlp_alone_takes_mlflows_spans_and_that_is_said(
    tmp_path: Path, collector: Collector
) -> None:
    """So MLflow means that variable: it exports there instead of to MLflow."""
    done = run("nested", tmp_path, collector.variables("TRACES"))
    assert done["kinds"] == [MLFLOWS_OWN]
    assert sorted(collector.spans) == BY_MLFLOWS_API
    assert done["spans"] == ["b", "d", "f", "h"]
    assert done.said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == 1
    assert done.said(OTLP_ALONE) == 1


def test_dual_export_sends_both_ways(tmp_path: Path, collector: Collector) -> None:
    variables = {"MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT": "true"}
    done = run("nested", tmp_path, collector.variables("TRACES") | variables)
    assert done["kinds"] == [MLFLOWS_OWN]
    assert_all_once(done)
    assert sorted(collector.spans) == BY_MLFLOWS_API
    assert done.said("OTEL_EXPORTER") == 0


def test_opentelemetrys_global_provider(tmp_path: Path) -> None:
    done = run("nested", tmp_path, {"MLFLOW_USE_DEFAULT_TRACER_PROVIDER": "false"})
    assert done["kinds"] == [MLFLOWS_OWN]
    assert_all_once(done)
    assert done["seen_by_opentelemetry"]


def test_opentelemetrys_global_provider_that_is_the_apps_own(tmp_path: Path) -> None:
    """It keeps its processors, while spanferry comes and when it goes."""
    variables = {"MLFLOW_USE_DEFAULT_TRACER_PROVIDER": "false"}
    done = run("nested", tmp_path, variables, own_provider=True)
    assert_all_once(done)
    assert sorted(done["own_processor"]) == sorted(["before", *BY_MLFLOWS_API, "after"])


def test_the_current_span_is_opentelemetrys_too(tmp_path: Path) -> None:
    done = run("nested", tmp_path, {"MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT": "true"})
    assert done["kinds"] == [MLFLOWS_OWN]
    assert_all_once(done)
    assert done["seen_by_opentelemetry"]


@pytest.mark.parametrize(
    ("given", "experiment"),
    [({}, "0"), ({"experiment": "chat"}, "chat"), ({"experiment_id": "7"}, "7")],
)
def test_spans_are_measured_for_otlp_metrics(
    tmp_path: Path, collector: Collector, given: dict[str, str], experiment: str
) -> None:
    """MLflow would ask the tracking server for every span's experiment by its name."""
    variables = collector.variables("METRICS") | {"MLFLOW_EXPERIMENT_NAME": "asked for"}
    done = run("nested", tmp_path, variables, settings=given)
    assert done["kinds"] == [MLFLOWS_OWN]
    assert_all_once(done)
    assert set(collector.paths) == {"/metrics"}
    assert collector.experiments == {experiment}
    assert list(tmp_path.iterdir()) == []


def test_metrics_that_fail_lose_no_trace(tmp_path: Path, collector: Collector) -> None:
    """MLflow's default protocol needs a package of its own, which is not installed here."""
    variables = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": collector.url}
    done = run("nested", tmp_path, variables)
    assert_all_once(done)
    assert done.said("not measured for OpenTelemetry's metrics") == 1
    assert done.said("http/protobuf") == 1


def test_a_span_processor_of_the_apps_own_sees_them(tmp_path: Path) -> None:
    done = run("nested", tmp_path, {}, own_processor=True)
    assert done["kinds"] == [MLFLOWS_OWN]
    assert_all_once(done)
    assert sorted(done["own_processor"]) == BY_MLFLOWS_API
