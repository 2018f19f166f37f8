"""A /metrics page as what `top` shows of each process on it."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Counts", "read_page"]

_COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "spanferry_consume_records_total": ("records", ""),
    "spanferry_consume_bytes_total": ("bytes", ""),
    "spanferry_consume_sequence_missing_total": ("missing", ""),
    "spanferry_consume_errors_total": ("kafka_errors", ""),
    "spanferry_consume_stalls_total": ("stalls", ""),
    "spanferry_consume_rebalances_total": ("rebalances", ""),
    "spanferry_assemble_finished_total": ("traces", ""),
    "spanferry_sample_decisions_total": ("outcome", "outcome"),
    "spanferry_write_traces_total": ("stored", ""),
    "spanferry_write_retries_total": ("store_retries", ""),
    "spanferry_dead_letters_total": ("dead", "reason"),
    "process_cpu_seconds_total": ("cpu_s", ""),
}
"""Metric: our name, and the label by whose values it is told apart."""
_SUMS: Final[Mapping[str, str]] = {
    "spanferry_worker_ready": "ready",
    "spanferry_consume_lag_records": "lag_records",
    "spanferry_consume_lag_bytes": "lag_bytes",
    "spanferry_consume_held_bytes": "held_bytes",
    "spanferry_consume_held_limit_bytes": "held_limit_bytes",
    "spanferry_consume_paused": "paused",
    "spanferry_assemble_open_traces": "open_traces",
    "process_resident_memory_bytes": "memory_bytes",
}
_HIGHEST: Final[Mapping[str, str]] = {
    "spanferry_consume_lag_seconds": "lag_s",
    "spanferry_commit_lag_seconds": "oldest_s",
}
_ALONE: Final = ""


class Counts(Struct):
    """One process's numbers. Counters are `name` or `name:label`; they begin at 0 with the process."""

    counters: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)

    def of(self, name: str) -> dict[str, float]:
        """A counter by the values of its label."""
        start = f"{name}:"
        return {
            key.removeprefix(start): value
            for key, value in self.counters.items()
            if key.startswith(start)
        }


def read_page(text: str) -> dict[str, Counts]:
    """By process, which is empty where the page is one process's own.

    Raises ValueError where it is not Prometheus's text, or no worker's page.
    """
    found: dict[str, Counts] = {}
    worker = False
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            worker = worker or sample.name.startswith("spanferry_")
            process = sample.labels.get("process", _ALONE)
            if sample.name.startswith("spanferry_supervisor_"):
                continue
            counts = found.setdefault(process, Counts())
            _add(counts, sample.name, sample.labels, float(sample.value))
    if not worker:
        raise ValueError("this is no page of a spanferry worker")
    return found


def _add(counts: Counts, metric: str, labels: Mapping[str, str], value: float) -> None:
    if metric in _COUNTERS:
        name, label = _COUNTERS[metric]
        key = f"{name}:{labels.get(label, '')}" if label else name
        counts.counters[key] = counts.counters.get(key, 0.0) + value
    elif metric in _SUMS:
        key = _SUMS[metric]
        counts.gauges[key] = counts.gauges.get(key, 0.0) + value
    elif metric in _HIGHEST:
        key = _HIGHEST[metric]
        counts.gauges[key] = max(counts.gauges.get(key, 0.0), value)
