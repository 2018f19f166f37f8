"""What the project promises of a served app, beside what a run has measured."""

import itertools
from collections.abc import Iterator

from benchmarks.report import Figure, Verdict
from benchmarks.sdks import TIERS
from benchmarks.serve.cases import (
    CALLING,
    CLOSED,
    FLASK_CALLING,
    FLASK_CLOSED,
    IMPORTED,
    STATES,
)
from benchmarks.serve.report import Memory, Report, ratio

__all__ = ["verdicts"]

_THROUGHPUT = {"spanferry": 0.95, "bridge": 0.90}
_BESIDE = {"spanferry": "untraced", "bridge": IMPORTED}
"""The same app with tracing off: it has MLflow in memory where it uses MLflow's API."""
_DEAD_P99_MAX = 1.10
_MEMORY_ABOVE_MB = 40.0


def verdicts(report: Report) -> list[Verdict]:
    """Every promise, measured or not."""
    return [*_throughput(report), *_dead(report), *_memory(report)]


def _throughput(report: Report) -> Iterator[Verdict]:
    for case in (CALLING, FLASK_CALLING, CLOSED, FLASK_CLOSED):
        for tier, share in _THROUGHPUT.items():
            traced, untraced = report.row(case.name, tier), report.row(case.name, _BESIDE[tier])
            measured = ratio(traced, untraced, lambda b: b.rate) if traced and untraced else None
            beside = TIERS[_BESIDE[tier]].label
            yield Verdict(
                promise=f"{TIERS[tier].label}: throughput at least {share:.0%} of {beside}",
                where=f"{case.server}, {case.load}",
                at_least=share,
                unit="times",
                measured=measured,
                holds=None if measured is None else measured.median >= share,
            )


def _dead(report: Report) -> Iterator[Verdict]:
    for (healthy, _, dead), tier in itertools.product(STATES, _THROUGHPUT):
        rows = report.row(dead.name, tier), report.row(healthy.name, tier)
        measured = ratio(rows[0], rows[1], lambda b: b.p99) if rows[0] and rows[1] else None
        yield _at_most(
            f"{TIERS[tier].label}: p99 with Kafka dead within 10 % of healthy",
            f"{healthy.server}, {healthy.load}",
            _DEAD_P99_MAX,
            "times",
            measured,
        )


def _memory(report: Report) -> Iterator[Verdict]:
    for tier in _THROUGHPUT:
        found = next((one for one in report.memory if one.tier == tier), None)
        limit = round((found.buffer_bytes if found else 64 * 2**20) / 1e6 + _MEMORY_ABOVE_MB, 1)
        yield _at_most(
            f"{TIERS[tier].label}: full buffer takes at most itself and {_MEMORY_ABOVE_MB:g} MB",
            "fastapi, RSS above untraced",
            limit,
            "MB",
            _above(found) if found else None,
        )


def _above(memory: Memory) -> Figure | None:
    if not memory.dropped:  # it was never full
        return None
    above = round(memory.rss_mb - memory.untraced_mb, 1)
    return Figure(above, above, above)


def _at_most(promise: str, where: str, limit: float, unit: str, measured: Figure | None) -> Verdict:
    return Verdict(
        promise=promise,
        where=where,
        at_most=limit,
        unit=unit,
        measured=measured,
        holds=None if measured is None else measured.median <= limit,
    )
