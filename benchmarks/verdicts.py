"""What the project promises about the request's time, beside what a run has measured."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.report import Figure, Report, Row, Verdict, ratio

__all__ = ["verdicts"]

PACED, TIGHT = "10 KB/paced 100/s", "10 KB/tight"
ROWS, STRINGS = "1 MB rows/paced 2/s", ("1 MB/paced 20/s", "10 MB/paced 2/s")
OWN, BRIDGE = "spanferry API", "MLflow API on spanferry"


class _Under(NamedTuple):
    """`tier` is at least so many times under `peer`."""

    promise: str
    tier: str
    peer: str
    measure: str
    at_least: float
    cases: tuple[str, ...]
    less: str = ""
    """A tier whose figure is taken off both: what the same code takes without tracing."""


_BOTH = (PACED, TIGHT)
_UNDER = (
    _Under(f"{OWN}, p50: 1/5 of OpenTelemetry's", "spanferry", "otel", "p50", 5, _BOTH),
    _Under(
        f"{OWN}, p50 above no tracing: 1/5 of OpenTelemetry's",
        "spanferry", "otel", "p50", 5, _BOTH, less="untraced",
    ),
    _Under(f"{OWN}, p99: 1/2 of OpenTelemetry's", "spanferry", "otel", "p99", 2, _BOTH),
    _Under(
        f"{BRIDGE}, p50: 5 times under an exporter that only pops",
        "bridge", "mlflow-pop", "p50", 5, _BOTH,
    ),
    _Under(
        f"{BRIDGE}, p99: 20 times under MLflow's into its server",
        "bridge", "mlflow-server", "p99", 20, _BOTH,
    ),
    _Under(
        f"{BRIDGE}, p99: 20 times under MLflow's into a stub",
        "bridge", "mlflow", "p99", 20, _BOTH,
    ),
    _Under(
        f"{BRIDGE}, 15,000 small dicts, p50: 30 times under MLflow's",
        "bridge", "mlflow", "p50", 30, (ROWS,),
    ),
)  # fmt: skip
_P99_MS_MAX = 1.0
_ENCODES_MAX = 3.0


def verdicts(report: Report) -> list[Verdict]:
    """Every promise, measured or not."""
    return [*_ratios(report), *_limits(report), *_encodes(report)]


def _ratios(report: Report) -> Iterator[Verdict]:
    for one in _UNDER:
        for case in one.cases:
            ours, theirs = report.row(case, one.tier), report.row(case, one.peer)
            less = report.row(case, one.less)
            measured = None
            if ours and theirs and (less or not one.less):
                measured = ratio(theirs, ours, one.measure, less=less)
            yield Verdict(
                promise=one.promise,
                where=case,
                at_least=one.at_least,
                unit="times",
                measured=measured,
                holds=None if measured is None else measured.median >= one.at_least,
            )


def _limits(report: Report) -> Iterator[Verdict]:
    for case in (PACED, TIGHT):
        row = report.row(case, "bridge")
        measured = _p99(row) if row else None
        yield _at_most(f"{BRIDGE}, p99: at most 1 ms", case, _P99_MS_MAX, "ms", measured)


def _p99(row: Row) -> Figure | None:
    if row.p99:
        return row.p99
    return Figure(row.p99_pooled, row.p99_pooled, row.p99_pooled) if row.p99_pooled else None


def _encodes(report: Report) -> Iterator[Verdict]:
    for case in STRINGS:
        for label, tier in ((OWN, "spanferry"), (BRIDGE, "bridge")):
            row = report.row(case, tier)
            promise = f"{label}, long strings, p50: at most 3 msgspec encodes"
            measured = row.encode_ratio if row else None
            yield _at_most(promise, case, _ENCODES_MAX, "times", measured)


def _at_most(promise: str, where: str, limit: float, unit: str, measured: Figure | None) -> Verdict:
    return Verdict(
        promise=promise,
        where=where,
        at_most=limit,
        unit=unit,
        measured=measured,
        holds=None if measured is None else measured.median <= limit,
    )
