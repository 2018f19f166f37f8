"""What `spanferry.stats()` counts, for Prometheus and OpenTelemetry.

REGISTRY.register(spanferry.metrics.prometheus_collector())  # one process behind /metrics
spanferry.metrics.mirror_to_prometheus()  # several: PROMETHEUS_MULTIPROC_DIR
spanferry.metrics.register_opentelemetry()

Each is called once, when the app starts, before or after `enable()`. Neither library is imported
before it is asked for. Counters only grow while the process lives, whatever `disable()` and
`enable()` do; a forked process begins at zero. The names are in docs/metrics.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

__all__ = ["mirror_to_prometheus", "prometheus_collector", "register_opentelemetry"]


def prometheus_collector() -> "Collector":
    """For `REGISTRY.register(...)`; reads the account at each scrape, which takes microseconds.

    Where several processes answer for one /metrics, `mirror_to_prometheus` is what works.
    Raises ImportError without prometheus_client: `pip install 'spanferry[prometheus]'`.
    """
    collector: Collector = _part("prometheus").StatsCollector()
    return collector


def mirror_to_prometheus(
    registry: "CollectorRegistry | None" = None, *, interval_s: float = 5.0
) -> None:
    """Copy the account into metrics of prometheus_client's own, which its multiprocess mode adds up.

    That mode sees no collectors, only metrics whose values are in PROMETHEUS_MULTIPROC_DIR. The
    sender's thread copies every `interval_s`, in every process that traces, forked ones included,
    and once more when the process flushes at its end. `registry`: by default prometheus_client's.

    Raises ImportError without prometheus_client, ConfigurationError beside gevent, whose locks the
    sender's thread must not wait for.
    """
    _part("prometheus").mirror(registry, interval_s)


def register_opentelemetry(meter_provider: "MeterProvider | None" = None) -> None:
    """Observable instruments of the meter `spanferry`; of the global provider by default.

    A second time with the same provider nothing happens.
    Raises ImportError without opentelemetry-api: `pip install 'spanferry[opentelemetry]'`.
    """
    _part("opentelemetry").register(meter_provider)


def _part(extra: str) -> Any:
    """The module of that name, and with it the library, which only who asks pays for."""
    try:
        return importlib.import_module(f"spanferry.metrics.{extra}")
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'spanferry[{extra}]'") from error
