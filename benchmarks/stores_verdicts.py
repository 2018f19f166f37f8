"""What was promised of storing, beside what a run has measured."""

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.stores_processes import PROCESSES
from benchmarks.stores_report import EndToEnd, Result, Row
from benchmarks.stores_ways import IN_PROCESSES

__all__ = ["COLLECTOR_PER_SECOND", "USUAL", "Verdict", "verdicts"]

USUAL = ("10 KB", 200)
"""Traces and the worker's batch."""
OF_RAW, TIMES_MLFLOW, OF_EMPTY, TIMES_COLLECTOR = 0.7, 10.0, 0.8, 10.0
COLLECTOR_PER_SECOND = 101.0
"""Traces of an OpenTelemetry SDK through a collector, Kafka and a second collector (groupbytrace) into
`mlflow server` on PostgreSQL, all on two cores: measured once, in another run on a machine of this kind."""
_STORES = ("PostgreSQL", "SQLite")


class Verdict(NamedTuple):
    """One promise."""

    promise: str
    measured: str
    """Median of the rounds, the lowest and the highest."""
    holds: bool


def verdicts(result: Result, from_kafka: Sequence[EndToEnd] = ()) -> list[Verdict]:
    """Those of which the run has the figures. Each is of ratios within one round, but for that by the
    collector's pipeline, which was measured in another run."""
    found = [one for store in _STORES for one in _of(store, result.rows)]
    return [*found, *_from_kafka(from_kafka)]


def _of(store: str, rows: Sequence[Row]) -> Iterator[Verdict]:
    empty = [
        row for row in rows
        if row.store == store and (row.payload, row.batch) == USUAL and not row.beside_full
    ]  # fmt: skip
    by_way = {row.way: row for row in empty}
    own, native = by_way.get("spanferry"), by_way.get("MLflow")
    if own:
        yield _verdict(
            f"{store}: at least {OF_RAW:.0%} of the raw ceiling", own.of_raw, OF_RAW, ".0%"
        )
    if processes := by_way.get(IN_PROCESSES):
        yield _verdict(
            f"{store}, {PROCESSES} worker processes: at least {OF_RAW:.0%} of the raw ceiling",
            processes.of_raw, OF_RAW, ".0%",
        )  # fmt: skip
    if own and native:
        pairs = zip(own.per_second, native.per_second, strict=True)
        yield _verdict(
            f"{store}: at least {TIMES_MLFLOW:.0f} times MLflow's own way",
            [ours / theirs for ours, theirs in pairs], TIMES_MLFLOW, ".1f",
        )  # fmt: skip
    for row in rows:
        if row.store == store and row.way == "spanferry" and row.of_empty:
            settings = f" with {row.settings}" if row.settings else ""
            found = _verdict(
                f"{store}{settings}: with {row.stored:,} traces stored at least {OF_EMPTY:.0%} of "
                "the rate into empty tables",
                row.of_empty, OF_EMPTY, ".0%",
            )  # fmt: skip
            yield found._replace(measured=found.measured + _of_raw_itself(row, rows))


def _of_raw_itself(full: Row, rows: Sequence[Row]) -> str:
    """What is left of the ceiling in the same tables."""
    key = ("raw", full.store, full.stored, full.settings)
    raw = [row for row in rows if (row.way, row.store, row.stored, row.settings) == key]
    return f"; raw itself {statistics.median(raw[0].of_empty):.0%}" if raw else ""


def _from_kafka(runs: Sequence[EndToEnd]) -> Iterator[Verdict]:
    for processes in sorted({one.processes for one in runs}):
        own = [one for one in runs if one.processes == processes]
        times = [one.per_second / COLLECTOR_PER_SECOND for one in own]
        found = _verdict(
            f"from Kafka into PostgreSQL, {processes} worker process{'es' * (processes > 1)}: at least "
            f"{TIMES_COLLECTOR:.0f} times the {COLLECTOR_PER_SECOND:.0f} traces/s of the collector's "
            "pipeline (measured in another run, on a machine of this kind)",
            times, TIMES_COLLECTOR, ".1f",
        )  # fmt: skip
        lost = sum(one.traces - one.stored for one in own)
        if lost:
            text = f"{found.measured}, and {lost:,} traces not stored"
            found = found._replace(measured=text, holds=False)
        yield found


def _verdict(promise: str, figures: Sequence[float], least: float, form: str) -> Verdict:
    middle = statistics.median(figures)
    text = f"{middle:{form}} ({min(figures):{form}}-{max(figures):{form}})"
    return Verdict(promise, text, middle >= least)
