"""The account in Prometheus's format: by a collector, and for servers of several processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import spanferry
from spanferry import client, metrics
from spanferry.metrics import totals
from spanferry.metrics.rows import ROWS
from spanferry.settings import ConfigurationError
from tests.processes.program import PROGRAMS
from tests.processes.serving import ask, get, served
from tests.producer.traffic import send
from tests.services.process import free_port


def parsed(text: str) -> dict[str, float]:
    """Samples as Prometheus reads them, `name{label}`."""
    return {
        f"{one.name}{{{','.join(one.labels.values())}}}": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    return parsed(generate_latest(registry).decode())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_the_collector_shows_the_account(
    enable: Callable[..., None], registry: CollectorRegistry
) -> None:
    registry.register(metrics.prometheus_collector())
    assert scraped(registry)["spanferry_app_enabled{}"] == 0
    enable()
    send(2000, 1000)
    stats, found = spanferry.stats(), scraped(registry)
    assert found["spanferry_app_traces_total{}"] == 2000
    assert found["spanferry_app_traces_settled_total{dropped}"] == stats.traces_dropped > 0
    assert found["spanferry_app_parcels_dropped_total{buffer_full}"] == stats.traces_dropped
    assert found["spanferry_app_buffered_bytes{}"] == stats.buffered_bytes > 0
    assert found["spanferry_app_troubles_total{too large}"] == 0
    assert found["spanferry_app_enabled{}"] == 1


def test_its_names_are_taken(registry: CollectorRegistry) -> None:
    registry.register(metrics.prometheus_collector())
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(metrics.prometheus_collector())


def test_a_scrape_never_raises(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise RuntimeError("a fault of ours")

    registry.register(metrics.prometheus_collector())
    monkeypatch.setattr(client, "stats", fails)
    assert scraped(registry) == {}
    assert scraped(registry) == {}
    assert caplog.text.count("a fault of ours") == 1


def test_a_collector_that_nobody_will_ask_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/somewhere")
    metrics.prometheus_collector()
    assert "mirror_to_prometheus" in caplog.text


def test_a_mirror_says_what_the_collector_says(
    enable: Callable[..., None], registry: CollectorRegistry
) -> None:
    collected = CollectorRegistry()
    collected.register(metrics.prometheus_collector())
    metrics.mirror_to_prometheus(registry, interval_s=0.1)
    enable()
    send(2000, 1000)
    deadline_s = time.monotonic() + 150
    while scraped(registry)["spanferry_app_traces_total{}"] < 2000:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    spanferry.disable()
    enable()
    send(10)
    spanferry.disable()  # copies, however long the interval is
    mirrored = scraped(registry)
    expected = scraped(collected)
    assert {name: mirrored[name] for name in expected} == expected
    assert mirrored["spanferry_app_traces_total{}"] == 2010


def test_no_mirror_beside_gevent(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spanferry.metrics.prometheus.greenlets", lambda: True)
    with pytest.raises(ConfigurationError, match="gevent"):
        metrics.mirror_to_prometheus(registry)
    assert totals.listeners == []


@pytest.mark.parametrize("call", ["prometheus_collector", "mirror_to_prometheus"])
def test_without_the_library_it_says_what_to_install(call: str) -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        f"import spanferry.metrics\nspanferry.metrics.{call}()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install 'spanferry[prometheus]'" in ended.stderr
    assert ended.returncode == 1


GUNICORN = ["gunicorn", "--bind", "fd://FD", "--workers", "2", "--log-level", "warning"]
GUNICORN += ["--no-control-socket", "--config", f"python:{PROGRAMS}.measured_by"]
APP = f"{PROGRAMS}.measured:app"


@pytest.mark.parametrize("words", [[*GUNICORN, APP], [*GUNICORN, "--preload", APP]])
def test_gunicorns_workers_are_added_up(words: list[str], tmp_path: Path) -> None:
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "SPANFERRY_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "SPANFERRY_MLFLOW": "false",
        "SPANFERRY_COLLECT_ENVIRONMENT": "false",
        "SPANFERRY_EXIT_TIMEOUT_S": "0.5",
    }
    processes = 3 if "--preload" in words else 2  # it is enabled before the fork then
    with served(words, environment) as (running, port):
        first = ask(port, "first", processes=2)
        found = wait_for(port, "spanferry_app_traces_total{}", first.traces.total())
        assert found["spanferry_app_enabled{}"] == processes
        assert found["spanferry_app_connected{}"] == 0
        assert found["spanferry_app_buffered_traces{}"] == first.traces.total()
        assert found["spanferry_app_buffer_limit_bytes{}"] == processes * 64 * 1024 * 1024
        os.kill(min(first.processes), signal.SIGKILL)
        later = ask(port, "later", processes=2)
        total = first.traces.total() + later.traces.total()
        found = wait_for(port, "spanferry_app_traces_total{}", total)
        assert found["spanferry_app_enabled{}"] == processes
        assert found["spanferry_app_troubles_total{unreachable}"] > 0
        assert running.signal(signal.SIGTERM).ended() in {0, -signal.SIGTERM}, running.output
    assert "Traceback" not in running.output


def wait_for(port: int, name: str, number: float) -> dict[str, float]:
    """Until the page says so; each process copies in its own time."""
    deadline_s = time.monotonic() + 150
    while (found := parsed(get(port, "metrics"))).get(name) != number:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.1)
    return found


def test_all_rows_are_in_the_first_scrape(registry: CollectorRegistry) -> None:
    registry.register(metrics.prometheus_collector())
    families = {name.split("{")[0] for name in scraped(registry)}
    there = {row.prometheus_name for row in ROWS if row.read(spanferry.stats())}
    assert families == there
