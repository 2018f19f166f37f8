"""The pictures of a run: `python -m benchmarks.stores_plots benchmarks/results/stores.json`.

Writes stores-ways.svg, stores-batches.svg and stores-sizes.svg beside stores.json, as far as they were
measured.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.store_traces import MAKES
from benchmarks.stores_report import Result, Row
from benchmarks.stores_verdicts import USUAL
from benchmarks.stores_ways import WAYS
from benchmarks.svg import LogScale, Picture, write_beside

__all__ = ["pictures", "write"]

_COLOURS = dict(
    zip(WAYS, ("grey", "blue", "grey", "blue", "teal", "red", "sage", "brick"), strict=True)
)
_STORES = ("PostgreSQL", "SQLite", "MariaDB")
_WIDTH, _LEFT, _RIGHT = 900, 240, 780
_ROW, _HEAD = 22, 34
_TOP, _BOTTOM = 100, 340
_PANEL, _GAP = 230, 60


def pictures(result: Result) -> dict[str, str]:
    """SVG by what it shows: ways, batches, sizes."""
    found = {"ways": _ways(result)} if any(map(_is_usual, result.rows)) else {}
    fast = [row for row in result.rows if row.way in WAYS[:2] and not row.beside_full]
    batches = [row for row in fast if row.payload == USUAL[0]]
    if len({row.batch for row in batches}) > 1:
        found["batches"] = _series(
            result, batches, "Traces a second by size of batch (10 KB a trace)",
            "traces/s, both axes logarithmic", lambda row: (row.batch, f"{row.batch:,}", _rate(row)),
        )  # fmt: skip
    sized = [row for row in fast if row.trace_bytes]
    sizes = [row for row in sized if row.payload != USUAL[0] or _is_usual(row)]
    if len({row.payload for row in sizes}) > 1:
        found["sizes"] = _series(
            result, sizes, "Megabytes a second by size of a trace",
            "MB/s of inputs and outputs, both axes logarithmic",
            lambda row: (MAKES[row.payload], row.payload, _rate(row) * row.trace_bytes / 1e6),
        )  # fmt: skip
    return found


def _is_usual(row: Row) -> bool:
    return (row.payload, row.batch) == USUAL


def _rate(row: Row) -> float:
    return statistics.median(row.per_second)


def _ways(result: Result) -> str:
    """Every way into every store; filled tables hollow."""
    rows = [row for row in result.rows if _is_usual(row) and (row.stored or not row.beside_full)]
    scale = LogScale([rate for row in rows for rate in row.per_second], _LEFT, _RIGHT)
    picture = Picture(
        _WIDTH,
        "Traces a second into MLflow's tables",
        f"Traces of 10 KB in batches of 200, logarithmic; more is better.{_full(rows)}",
    )
    top = 70.0
    for store in _STORES:
        own = [row for row in rows if row.store == store]
        if not own:
            continue
        bottom = top + _HEAD + len(own) * _ROW
        picture.text(20, top + 20, store, weight=600, size=13)
        for tick in scale.ticks():
            picture.line([(scale(tick), top + 26), (scale(tick), bottom - 4)], "grid")
            picture.text(
                scale(tick), top + 20, f"{tick:,g}", colour="muted", size=11, anchor="middle"
            )
        for at, row in enumerate(own):
            _bar(picture, row, scale, top + _HEAD + at * _ROW + 8)
        top = bottom + 8
    return picture.written(top, _caption(result))


def _full(rows: Sequence[Row]) -> str:
    stored = max((row.stored for row in rows), default=0)
    return f" Hollow: {stored:,} traces were stored before." if stored else ""


def _bar(picture: Picture, row: Row, scale: LogScale, y: float) -> None:
    colour = _COLOURS[row.way]
    label = row.way + (", full" if row.stored else "")
    label += ", other settings" if row.settings else ""
    picture.text(
        _LEFT - 14, y + 4, label, anchor="end", weight=600 if row.way == "spanferry" else 400
    )
    low, high = scale(min(row.per_second)), scale(max(row.per_second))
    picture.line([(low, y), (high, y)], colour, 7, opacity=0.3)
    note = f"{row.store}, {label}: {_rate(row):,.0f} traces/s"
    picture.dot(scale(_rate(row)), y, colour, hollow=bool(row.stored), note=note)
    text = f"{_rate(row):,.0f}/s, {statistics.median(row.of_raw):.0%} of raw"
    picture.text(high + 9, y + 4, text, colour="muted", size=11)


def _series(
    result: Result,
    rows: Sequence[Row],
    title: str,
    subtitle: str,
    point: Callable[[Row], tuple[float, str, float]],
) -> str:
    """A panel for each store; a line for each way. `point`: place, its label, value."""
    picture = Picture(_WIDTH, title, subtitle)
    values = [point(row)[2] for row in rows]
    y = LogScale(values, _BOTTOM, _TOP)
    stores = [store for store in _STORES if any(row.store == store for row in rows)]
    for at, store in enumerate(stores):
        left = 60 + at * (_PANEL + _GAP)
        own = [row for row in rows if row.store == store]
        x = LogScale([point(row)[0] for row in own], left, left + _PANEL)
        picture.text(left, _TOP - 14, store, weight=600, size=13)
        for tick in y.ticks():
            picture.line([(left, y(tick)), (left + _PANEL, y(tick))], "grid")
            picture.text(left - 8, y(tick) + 4, f"{tick:,g}", colour="muted", size=11, anchor="end")
        for place, label in sorted({point(row)[:2] for row in own}):
            picture.text(x(place), _BOTTOM + 18, label, colour="muted", size=11, anchor="middle")
        for way in WAYS[:2]:
            line = sorted(point(row) for row in own if row.way == way)
            picture.line([(x(place), y(value)) for place, _, value in line], _COLOURS[way], 2)
            for place, label, value in line:
                note = f"{store}, {way}, {label}: {value:,.0f}"
                picture.dot(x(place), y(value), _COLOURS[way], note=note)
            if line:
                end = x(line[-1][0]), y(line[-1][2])
                above = -10 if way == "raw" else 18
                picture.text(
                    end[0], end[1] + above, way, colour=_COLOURS[way], size=11, anchor="end"
                )
    return picture.written(_BOTTOM + 30, _caption(result))


def _caption(result: Result) -> str:
    where = result.conditions
    short = " Short run on a busy machine, not to be quoted." if result.quick else ""
    return (
        f"Five spans a trace; medians of rounds in turns, bars their range; databases sync to disk. Client "
        f"and database share {where.cores} cores of {where.cpu}. Commit {where.commit}, {where.at}, load "
        f"{where.load_1m} before.{short}"
    )


def write(path: Path) -> list[Path]:
    """Draw what the result at `path` holds; the files written."""
    return write_beside(path, pictures(msgspec.json.decode(path.read_bytes(), type=Result)))


if __name__ == "__main__":
    for one in write(Path(sys.argv[1])):
        print(one)
