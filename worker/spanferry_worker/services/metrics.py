"""The worker's Prometheus metrics, named by stage. docs/metrics.md is made from this file.

Labels that grow: `partition`, which one process has at a time, so that a topic of 100 partitions has
100 series of such a metric however many workers there are; `rule`, of which a policy has a few.
"""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from spanferry_worker.stages.dead_letter import REASONS
from spanferry_worker.stages.statement import ACCOUNTED, Summary
from spanferry_worker.stages.trace import FinishReason

__all__ = ["ArchiveMetrics", "LedgerMetrics", "Metrics", "SupervisorMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BYTES = (1e3, 1e4, 1e5, 1e6, 4e6, 16e6, 64e6, 256e6)


class _Maker:
    """Makes metrics with our prefix in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"spanferry_{name}", text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"spanferry_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"spanferry_{name}", text, buckets=buckets, registry=self._registry)


class LedgerMetrics:
    """What the ledger says of the partitions that are ours."""

    def __init__(self, make: _Maker) -> None:
        self.records = make.counter(
            "ledger_records",
            "Records counted below the commit: stored, sampled, dead_lettered, settled, lost, repeated, "
            "unaccounted.",
            "outcome",
        )
        self.produced = make.gauge(
            "ledger_produced_records",
            "What apps have produced into the partitions of the process since their accounts began, by the "
            "numbers of their records, and what they have dropped: `ledger_account_records` of all outcomes "
            "and `ledger_dropped_parcels`, unless numbers are missing.",
        )
        self.account = make.gauge(
            "ledger_account_records",
            "What became of these: stored, sampled, dead_lettered, in_flight (in Kafka, not committed), "
            "settled, unaccounted, written_off (missing of producers whose accounts are closed).",
            "outcome",
        )
        self.missing = make.gauge(
            "ledger_missing_records", "Numbers of the producers told apart that are nowhere."
        )
        self.dropped = make.gauge(
            "ledger_dropped_parcels", "Parcels that apps have dropped, as their reports say."
        )
        self.producers = make.gauge("ledger_producers", "Producers told apart, by partition.")
        self.wrong = make.gauge(
            "ledger_wrong_producers",
            "Producers that do not add up: numbers of theirs are missing. `spanferry ledger` names them.",
        )
        self.kept = make.gauge(
            "ledger_kept", "1 while the ledger is kept in Kafka for every partition of the process."
        )
        self.errors = make.counter("ledger_errors", "Times that it could not be read or written.")

    def show(self, summary: Summary) -> None:
        """Set the gauges that make the equation, all of the same moment."""
        totals = summary.totals
        self.produced.set(totals.produced)
        self.missing.set(totals.missing)
        self.dropped.set(totals.dropped)
        self.producers.set(summary.producers)
        self.wrong.set(summary.wrong)
        for outcome in ACCOUNTED:
            self.account.labels(outcome).set(getattr(totals, outcome))
        self.account.labels("written_off").set(summary.written_off)


class ArchiveMetrics:
    """What went into the archive of large traces. Threads may count at once."""

    def __init__(self, make: _Maker) -> None:
        self.traces = make.counter(
            "archive_traces",
            "Large traces, by what became of their spans: written to archive.location; left in the database, "
            "because the archive has refused them, or cannot hold them as they are (unfit).",
            "result",
        )
        self.bytes = make.counter("archive_bytes", "Bytes of the files written there.")
        for result in ("written", "refused", "unfit"):
            self.traces.labels(result)


class _SampleMetrics:
    """Of sampling, beside its decisions."""

    def __init__(self, make: _Maker) -> None:
        counter, gauge = make.counter, make.gauge
        self.bytes_in = counter("sample_bytes", "Record bytes of decided traces.", "outcome")
        self.bytes_stored = counter(
            "sample_stored_bytes", "What of these is stored, about.", "outcome"
        )
        self.shadow_decisions = counter(
            "sample_shadow_decisions",
            "What the shadow policy would do.",
            "outcome",
            "rule",
            "reason",
        )
        self.shadow_stored = counter(
            "sample_shadow_stored_bytes", "What it would store, about.", "outcome"
        )
        self.shadow_differs = counter(
            "sample_shadow_differences",
            "Traces of which the shadow policy would store something else.",
            "live",
            "shadow",
        )
        self.target_bytes = gauge(
            "sample_target_bytes",
            "Up to how many bytes rules with a budget store traces whole for sure.",
            "policy",
        )
        self.waiting = gauge(
            "sample_waiting_traces", "Traces whose decision waits for the fleet's table."
        )
        self.unsettled = counter(
            "sample_unsettled", "Traces decided without the fleet's table: Kafka did not answer."
        )
        self.fleet_errors = counter("sample_fleet_errors", "Failures of the fleet's topic.")
        self.restored = counter(
            "sample_restored",
            "Cut or dropped traces that feedback came for: stored whole, or gone from Kafka.",
            "result",
        )
        self.recalled = counter(
            "sample_recalled",
            "Traces that came late, without their root, or feedback, and what was decided on them before: "
            "full, skeleton, drop; new: nothing; unanswered: MLflow did not say; unasked: too many waited.",
            "result",
        )
        self.remembered = gauge(
            "sample_remembered_bytes", "What is remembered of traces that were cut or dropped."
        )
        self.unwritten = counter(
            "sample_unwritten_drops",
            "Dropped traces that could not be written down: what comes late for them will not follow.",
        )
        self.dropped_errors = counter(
            "sample_dropped_errors", "Failures of the topic of dropped traces."
        )
        self.loads = counter(
            "sample_policy_loads", "Times that the policy was read again.", "result"
        )


class Metrics:
    """One worker process's metrics in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU, start time, open files: process_*
        make = _Maker(self.registry)
        self._make_worker(make.gauge)
        self._make_consume(make.counter, make.gauge)
        self._make_assemble(make)
        self._make_write(make)
        self._make_end(make.counter, make.gauge)
        self.ledger = LedgerMetrics(make)
        self.archive = ArchiveMetrics(make)
        self._begin_at_zero()

    def _make_worker(self, gauge: Callable[..., Gauge]) -> None:
        self.ready = gauge("worker_ready", "1 while /readyz says that traces flow, else 0.")
        self.memory_limit_bytes = gauge(
            "worker_memory_limit_bytes",
            "Memory that the process and its neighbours in the container may use; 0: no limit known.",
        )

    def _make_consume(self, counter: Callable[..., Counter], gauge: Callable[..., Gauge]) -> None:
        self.consume_records = counter("consume_records", "Records read.")
        self.consume_bytes = counter("consume_bytes", "Bytes of the values read.")
        self.consume_missing = counter(
            "consume_sequence_missing", "Numbers skipped in the producers' sequences: lost records."
        )
        self.consume_repeated = counter(
            "consume_sequence_repeated", "Numbers seen again: resent or replayed records."
        )
        self.consume_lag_records = gauge(
            "consume_lag_records", "Records in Kafka not read yet.", "partition"
        )
        self.consume_lag_seconds = gauge(
            "consume_lag_seconds", "Age of the newest record read, while others wait.", "partition"
        )
        self.consume_lag_bytes = gauge(
            "consume_lag_bytes",
            "Bytes in Kafka not read yet, estimated: the records that wait, by the mean size of the "
            "10,000 to 20,000 that the process has read last.",
            "partition",
        )
        self.consume_paused = gauge("consume_paused", "1 while intake waits for the store.")
        self.consume_held_bytes = gauge(
            "consume_held_bytes", "What records that are not stored yet take in memory."
        )
        self.consume_held_limit_bytes = gauge(
            "consume_held_limit_bytes",
            "The limit of these bytes: `consume.held_bytes_max`, or what `process.memory_bytes_max` leaves.",
        )
        self.consume_rebalances = counter("consume_rebalances", "Times that partitions were taken.")
        self.consume_stalls = counter("consume_stalls", "Times that nothing moved.", "stage")
        self.consume_errors = counter("consume_errors", "Failures of the Kafka client.")

    def _make_assemble(self, make: _Maker) -> None:
        counter, gauge = make.counter, make.gauge
        self.decode_rejected = counter("decode_rejected", "Records that give no event.", "reason")
        self.decode_replayed = counter(
            "decode_replayed", "Pieces of values that were decided before."
        )
        self.assemble_spans = counter("assemble_spans", "Spans of finished traces.")
        self.assemble_repeated = counter("assemble_spans_repeated", "Spans that came again.")
        self.assemble_finished = counter("assemble_finished", "Traces finished.", "reason")
        self.assemble_cut = counter(
            "assemble_cut", "Open traces whose payloads were cut: overload."
        )
        self.assemble_open = gauge("assemble_open_traces", "Traces being assembled.")
        self.assemble_held_bytes = gauge("assemble_held_bytes", "What these take in memory.")
        self.sample_decisions = counter(
            "sample_decisions", "Traces decided.", "outcome", "rule", "reason"
        )
        self.sample = _SampleMetrics(make)

    def _make_write(self, make: _Maker) -> None:
        counter, gauge, histogram = make.counter, make.gauge, make.histogram
        self.write_traces = counter("write_traces", "Traces stored.")
        self.write_bytes = counter("write_bytes", "Record bytes stored.")
        self.write_refused = counter("write_refused", "Traces the store can never take.")
        self.write_retries = counter("write_retries", "Batches tried again.")
        self.write_failing_seconds = gauge(
            "write_failing_seconds", "For how long the store has been failing; 0 while it works."
        )
        self.write_seconds = histogram("write_seconds", "Time of one write.", _SECONDS)
        self.write_batch_traces = histogram("write_batch_traces", "Traces a batch.", _SIZES)
        self.write_batch_bytes = histogram("write_batch_bytes", "Record bytes a batch.", _BYTES)
        self.write_delay_seconds = histogram(
            "write_delay_seconds",
            "From the newest record of a trace to its being stored.",
            _SECONDS,
        )

    def _make_end(self, counter: Callable[..., Counter], gauge: Callable[..., Gauge]) -> None:
        self.dead_letters = counter("dead_letters", "Records sent to the dead letters.", "reason")
        self.dead_letters_lost = counter(
            "dead_letters_lost", "Records for the dead letters that Kafka had already removed."
        )
        self.dead_letters_ratio = gauge(
            "dead_letters_ratio",
            "Part of the last `dead_letters.window` that was dead; above `dead_letters.ratio_max` the "
            "breaker stops the worker.",
            "stage",
        )
        self.commits = counter("commit_requests", "Commits.", "result")
        self.commit_undecided = gauge(
            "commit_undecided_records", "Records read and not yet decided.", "partition"
        )
        self.commit_lag_seconds = gauge(
            "commit_lag_seconds",
            "Age of the oldest record that is neither durable nor decided, that of traces still open "
            "included; where all that was read is decided and more waits, of the last record read.",
            "partition",
        )

    def _begin_at_zero(self) -> None:
        """Labels whose values are known are there from the start: `rate()` sees their first increase."""
        for reason in REASONS:
            self.dead_letters.labels(reason)
            self.decode_rejected.labels(reason)
        for finished in FinishReason:
            self.assemble_finished.labels(finished.value)
        for stage in ("consume", "write"):
            self.consume_stalls.labels(stage)
        for result in ("done", "failed", "lost"):
            self.commits.labels(result)

    def clear_lag(self) -> None:
        """Forget what was said of partitions that may be another process's now."""
        for gauge in (self.consume_lag_records, self.consume_lag_bytes, self.consume_lag_seconds):
            gauge.clear()

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class SupervisorMetrics:
    """What the supervisor of several worker processes says of them, beside their own metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make = _Maker(self.registry)
        self.up = make.gauge(
            "supervisor_process_up", "1 while the process answers, else 0.", "process"
        )
        self.restarts = make.counter(
            "supervisor_restarts", "Times that the process died and was replaced.", "process"
        )

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
