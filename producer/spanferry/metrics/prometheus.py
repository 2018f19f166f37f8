"""The account as Prometheus's metrics: read at the scrape, or copied for its multiprocess mode."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spanferry import client
from spanferry.log import logger, say_once
from spanferry.metrics import totals
from spanferry.metrics.rows import ROWS, Kind, Row
from spanferry.native import greenlets, original
from spanferry.process import PROCESS
from spanferry.settings import ConfigurationError

__all__ = ["Mirror", "StatsCollector", "mirror"]

_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
_PATIENCE_S: Final = 0.5


class StatsCollector(Collector):
    """Reads the account when it is scraped. Never raises."""

    def __init__(self) -> None:
        """Say it where nobody will ask."""
        if os.environ.get(_MULTIPROCESS):
            say_once(
                "metrics-collector",
                "%s is set: prometheus_client shows no collectors then, and spanferry's metrics "
                "need spanferry.metrics.mirror_to_prometheus()",
                _MULTIPROCESS,
            )

    def collect(self) -> Iterable[Metric]:
        """All metrics with what they are now."""
        families: list[Metric] = []
        try:
            account = totals.look(client.stats())
            for row in ROWS:
                numbers = account.read(row)
                if numbers:
                    families.append(_family(row, numbers))
        except Exception as error:  # noqa: BLE001  the app's own metrics are in this scrape too
            say_once("metrics-scrape", "the metrics could not be read: %r", error)
            logger.debug("the metrics could not be read", exc_info=True)
        return families

    def describe(self) -> Iterable[Metric]:
        """All metrics without numbers: the registry asks whether a name is taken."""
        return [_family(row, {}) for row in ROWS]


def _family(row: Row, numbers: dict[str, float]) -> Metric:
    kind = CounterMetricFamily if row.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(row.prometheus_name, row.text, labels=_labels(row))
    for value, number in numbers.items():
        family.add_metric([value] if row.label else [], number)
    return family


def _labels(row: Row) -> list[str]:
    return [row.label] if row.label else []


class Mirror:
    """Copies the account into metrics of prometheus_client's own; one for each registry."""

    def __init__(self, registry: CollectorRegistry, interval_s: float) -> None:
        """Raises ValueError where the registry has such metrics."""
        self._interval_s = interval_s
        self._due_s = 0.0
        self._set = {row.name: _metric_of(row, registry) for row in ROWS}
        self._reset()

    def _reset(self) -> None:
        """The process has been forked, and counts from zero: so do the metrics by themselves."""
        self._forks = PROCESS.forks
        self._copied: dict[tuple[str, str], float] = {}
        self._busy = original("_thread", "allocate_lock")()

    def on_told(self, last: bool) -> None:
        """Copy where it is time; `last`: at once, because the process may end."""
        if self._forks != PROCESS.forks:
            self._reset()
        now_s = time.monotonic()
        if not last and now_s < self._due_s:
            return
        if not self._busy.acquire(timeout=_PATIENCE_S if last else 0):
            return  # another thread does it
        try:
            self._due_s = now_s + self._interval_s
            self._copy()
        finally:
            self._busy.release()

    def _copy(self) -> None:
        account = totals.look(client.stats())
        for row in ROWS:
            put = self._set[row.name]
            for value, number in account.read(row).items():
                if row.kind is not Kind.COUNTER:
                    put(value, number)
                    continue
                before = self._copied.get((row.name, value))
                if before is None or number > before:
                    put(value, number - (before or 0))
                    self._copied[row.name, value] = number


def _metric_of(row: Row, registry: CollectorRegistry) -> Callable[[str, float], None]:
    """Makes the metric; what is returned adds to a counter and sets a gauge."""
    name, text, labels = row.prometheus_name, row.text, _labels(row)
    if row.kind is Kind.COUNTER:
        counter = Counter(name, text, labels, registry=registry)
        return lambda value, number: (counter.labels(value) if value else counter).inc(number)
    gauge = Gauge(
        name,
        text,
        labels,
        registry=registry,
        multiprocess_mode="livesum" if row.kind is Kind.SUM else "livemax",
    )
    return lambda value, number: (gauge.labels(value) if value else gauge).set(number)


def mirror(registry: CollectorRegistry | None, interval_s: float) -> None:
    """See `spanferry.metrics.mirror_to_prometheus`."""
    if greenlets():
        raise ConfigurationError(
            "mirror_to_prometheus() does not work beside gevent: serve prometheus_collector() on a "
            "port of each process"
        )
    totals.listeners.append(Mirror(registry or REGISTRY, interval_s).on_told)
