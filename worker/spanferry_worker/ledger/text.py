"""A statement as lines for people and as JSON for programs."""

from collections.abc import Iterator
from typing import Final

import msgspec

from spanferry_worker.stages.accounts import UNNUMBERED
from spanferry_worker.stages.statement import COUNTED, Row, Statement

__all__ = ["as_json", "lines"]

_HEAD: Final = (
    f"{'PRODUCER':<16}  {'PRODUCED':>10} = {'STORED':>10} + {'SAMPLED':>8} + {'DEAD':>8} + "
    f"{'IN FLIGHT':>9} + {'DROPPED':>8}  {'MISSING':>8}  {'REPEATED':>8}  LAST REPORT"
)
_ROWS_MAX: Final = 20
_RUNS_MAX: Final = 5


def lines(statement: Statement, now_ms: int, *, everybody: bool) -> Iterator[str]:
    """Without `everybody` those that do not add up, and the largest of the others."""
    shown = [
        row
        for index, row in enumerate(statement.rows)
        if everybody or index < _ROWS_MAX or not row.adds_up
    ]
    yield _HEAD
    for row in shown:
        yield _line(_name(row), row, _report(row, now_ms))
    if left := len(statement.rows) - len(shown):
        yield f"... and {left:,} more that add up (--all shows them)"
    if statement.gone_producers:
        yield _line("(gone)", statement.gone, f"{statement.gone_producers:,} accounts closed")
    yield _line("all", statement.totals, "")
    yield from _notes(statement)
    yield from _verdict(statement)


def _line(name: str, row: Row, report: str) -> str:
    return (
        f"{name:<16}  {row.produced:>10,} = {row.stored:>10,} + {row.sampled:>8,} + "
        f"{row.dead_lettered:>8,} + {row.in_flight:>9,} + {row.dropped:>8,}  {row.missing:>8,}  "
        f"{row.repeated:>8,}  {report}"
    ).rstrip()


def _name(row: Row) -> str:
    return "(no header)" if row.producer_id == UNNUMBERED else row.producer_id.hex()


def _report(row: Row, now_ms: int) -> str:
    if row.report is None:
        return "none"
    age_s = max(0, now_ms - row.report.made_ns // 1_000_000) // 1000
    return f"{age_s} s ago, ended" if row.report.last else f"{age_s} s ago"


def _notes(statement: Statement) -> Iterator[str]:
    totals = statement.totals
    if totals.settled:
        yield (
            f"of PRODUCED {totals.settled:,} are pieces of values that were decided before they came "
            "again"
        )
    if totals.unaccounted:
        yield (
            f"of PRODUCED {totals.unaccounted:,} were committed while no ledger was kept: nothing is "
            "known of them"
        )
    if statement.gone.missing:
        yield f"{statement.gone.missing:,} are missing of producers whose accounts are closed"
    if statement.not_kept:
        numbers = ", ".join(map(str, statement.not_kept))
        yield f"no ledger is kept yet of partition {numbers}"


def _verdict(statement: Statement) -> Iterator[str]:
    for partition, count in sorted(statement.removed.items()):
        yield f"partition {partition}: {count:,} records were removed before any worker had read them"
    wrong = statement.wrong
    if statement.adds_up:
        yield "everything adds up"
    if not wrong:
        return
    yield f"{len(wrong):,} of {len(statement.rows):,} producers do not add up:"
    for row in wrong:
        places = "; ".join(
            f"partition {partition}: {_runs(runs)}"
            for partition, runs in sorted(row.places.items())
        )
        yield f"  {_name(row)}: {row.missing:,} missing{f' ({places})' if places else ''}"


def _runs(runs: list[tuple[int, int]]) -> str:
    some = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_RUNS_MAX]]
    more = len(runs) - len(some)
    return ", ".join(some) + (f" and {more:,} more runs" if more else "")


def as_json(statement: Statement, now_ms: int) -> str:
    """One JSON object and a newline."""
    content = {
        "adds_up": statement.adds_up,
        "removed_unread": {str(k): count for k, count in sorted(statement.removed.items())},
        "totals": _numbers(statement.totals),
        "gone": {**_numbers(statement.gone), "accounts": statement.gone_producers},
        "partitions_not_kept": statement.not_kept,
        "producers": [
            {
                "producer": row.producer_id.hex(),
                **_numbers(row),
                "adds_up": row.adds_up,
                "missing_by_partition": {str(k): runs for k, runs in sorted(row.places.items())},
                "seen_ms": row.seen_ms,
                "report": None if row.report is None else _told(row, now_ms),
            }
            for row in statement.rows
        ],
    }
    return msgspec.json.encode(content).decode() + "\n"


def _numbers(row: Row) -> dict[str, int]:
    return {name: getattr(row, name) for name in COUNTED}


def _told(row: Row, now_ms: int) -> dict[str, object]:
    report = row.report
    assert report is not None
    return {
        "age_ms": max(0, now_ms - report.made_ns // 1_000_000),
        "started_ms": report.started_ns // 1_000_000,
        "dropped": report.dropped,
        "spooled": report.spooled,
        "ended": report.last,
    }
