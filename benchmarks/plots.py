"""The pictures of a report: `python -m benchmarks.plots benchmarks/results/overhead.json`.

Writes overhead-main.svg, overhead-size.svg and overhead-spans.svg beside overhead.json, as far as the
run has measured them.
"""

import sys
from pathlib import Path

import msgspec

from benchmarks.cases import MAIN, SERIES, Case, Series
from benchmarks.report import Report, Row
from benchmarks.sdks import TIERS
from benchmarks.svg import LogScale, Picture, spread_out, write_beside
from benchmarks.tables import measured_series, number

__all__ = ["pictures", "write"]

COLOURS = {
    "spanferry": "blue",
    "bridge": "teal",
    "bridge-plain": "sage",
    "mlflow-pop": "orange",
    "mlflow": "red",
    "mlflow-server": "brick",
    "otel": "purple",
    "langfuse": "brown",
    "langsmith": "grey",
}
_WIDTH = 900
_LEFT, _RIGHT = 240, 850
_ROW, _HEAD = 22, 34
_SERIES_LEFT, _SERIES_RIGHT = 70, 600
_SERIES_TOP, _SERIES_BOTTOM = 76, 420
_DRAWN = ("size", "spans")


def pictures(report: Report) -> dict[str, str]:
    """SVG by what it shows: main, size, spans."""
    found: dict[str, str] = {}
    if any(row.case in {case.name for case in MAIN} for row in report.rows):
        found["main"] = _main(report)
    for series in SERIES:
        if series.name in _DRAWN and series in measured_series(report):
            found[series.name] = _series(report, series)
    return found


def _main(report: Report) -> str:
    """p50 and p99 of every tier, a panel for each rhythm."""
    panels = [(case, _drawn_rows(report, case)) for case in MAIN]
    panels = [(case, rows) for case, rows in panels if rows]
    values = [value for _, rows in panels for row in rows for value in _extent(row)]
    scale = LogScale(values, _LEFT, _RIGHT)
    picture = Picture(
        _WIDTH,
        "What one traced request pays: 5 spans, 10 KB",
        "Time of the calling thread inside tracing calls, milliseconds, logarithmic. Less is better.",
    )
    top = 74.0
    _legend(picture, top - 6)
    for case, rows in panels:
        bottom = top + _HEAD + len(rows) * _ROW
        picture.text(20, top + 20, _rhythm(case), weight=600, size=13)
        for tick in scale.ticks():
            picture.line([(scale(tick), top + 10), (scale(tick), bottom - 4)], "grid")
        for at, row in enumerate(rows):
            _dumbbell(picture, scale, row, top + _HEAD + at * _ROW + 6)
        top = bottom
    for tick in scale.ticks():
        picture.text(
            scale(tick), top + 12, f"{tick:g} ms", colour="muted", size=11, anchor="middle"
        )
    return picture.written(top + 26, _caption(report))


def _rhythm(case: Case) -> str:
    return "trace after trace" if not case.rate else f"{case.rate:,.0f} traces a second"


def _legend(picture: Picture, y: float) -> None:
    picture.dot(_LEFT + 6, y, "muted", note="p50")
    picture.text(_LEFT + 15, y + 4, "p50", colour="muted", size=11)
    picture.dot(_LEFT + 56, y, "muted", hollow=True, note="p99")
    picture.text(_LEFT + 65, y + 4, "p99", colour="muted", size=11)
    picture.line([(_LEFT + 106, y), (_LEFT + 128, y)], "muted", 7, opacity=0.3)
    picture.text(_LEFT + 136, y + 4, "lowest to highest block", colour="muted", size=11)


def _dumbbell(picture: Picture, scale: LogScale, row: Row, y: float) -> None:
    colour, label = COLOURS[row.tier], TIERS[row.tier].label
    own = TIERS[row.tier].back_end == "kafka"
    picture.text(_LEFT - 14, y + 4, label, anchor="end", weight=600 if own else 400)
    p50, p99 = row.p50.median, row.best_p99
    for figure in (row.p50, row.p99):
        if figure and figure.high > figure.low:
            picture.line([(scale(figure.low), y), (scale(figure.high), y)], colour, 7, opacity=0.25)
    if p99:
        picture.line([(scale(p50), y), (scale(p99), y)], colour, 1.8)
        picture.dot(scale(p99), y, colour, hollow=True, note=f"{label}: p99 {number(p99)} ms")
        end = max(p99, row.p99.high if row.p99 else p99)
        picture.text(scale(end) + 9, y + 4, number(p99), colour="muted", size=11)
    picture.dot(scale(p50), y, colour, note=f"{label}: p50 {number(p50)} ms")
    picture.text(scale(row.p50.low) - 9, y + 4, number(p50), colour="muted", size=11, anchor="end")


def _extent(row: Row) -> list[float]:
    """The values drawn, with room for the labels beside them."""
    low, high = row.p50.low, row.p50.high
    if row.p99:
        high = max(high, row.p99.high)
    if row.p99_pooled and not row.p99:
        high = max(high, row.p99_pooled)
    return [low / 1.6, high * 1.6]


def _series(report: Report, series: Series) -> str:
    """p50 of the tiers that every point has, over the series' axis."""
    lines = _lines(report, series)
    x = LogScale([point.x for point in series.points], _SERIES_LEFT + 10, _SERIES_RIGHT)
    y = LogScale(
        [value for rows in lines.values() for _, row in rows for value in (row.p50.low, row.p50.high)],
        _SERIES_BOTTOM, _SERIES_TOP,
    )  # fmt: skip
    picture = Picture(
        _WIDTH,
        f"{series.title}: what one trace costs the calling thread",
        "p50 with lowest and highest block, milliseconds; both axes logarithmic. Less is better.",
    )
    _axes(picture, series, x, y)
    ends: list[tuple[str, Row]] = []
    for tier, rows in lines.items():
        colour = COLOURS[tier]
        picture.line([(x(at), y(row.p50.median)) for at, row in rows], colour, 2)
        for at, row in rows:
            ends_of_bar = [(x(at), y(row.p50.low)), (x(at), y(row.p50.high))]
            picture.line(ends_of_bar, colour, 7, opacity=0.25)
            note = f"{TIERS[tier].label}, {at:,.0f}: p50 {number(row.p50.median)} ms"
            picture.dot(x(at), y(row.p50.median), colour, note=note)
        ends.append((tier, rows[-1][1]))
    places = spread_out([y(row.p50.median) for _, row in ends], 17)
    for (tier, row), place in zip(ends, places, strict=True):
        label = f"{number(row.p50.median)}  {TIERS[tier].label}"
        picture.text(_SERIES_RIGHT + 14, place + 4, label, colour=COLOURS[tier], weight=600)
    return picture.written(_SERIES_BOTTOM + 52, _caption(report))


def _lines(report: Report, series: Series) -> dict[str, list[tuple[float, Row]]]:
    lines: dict[str, list[tuple[float, Row]]] = {}
    for tier in COLOURS:
        found = [(point.x, report.row(point.case.name, tier)) for point in series.points]
        rows = [(at, row) for at, row in found if row is not None]
        if len(rows) == len(found):
            lines[tier] = rows
    return lines


def _axes(picture: Picture, series: Series, x: LogScale, y: LogScale) -> None:
    for tick in y.ticks():
        picture.line([(_SERIES_LEFT, y(tick)), (_SERIES_RIGHT, y(tick))], "grid")
        picture.text(
            _SERIES_LEFT - 8, y(tick) + 4, f"{tick:g} ms", colour="muted", size=11, anchor="end"
        )
    for point in series.points:
        at = x(point.x)
        picture.line([(at, _SERIES_TOP), (at, _SERIES_BOTTOM)], "grid")
        picture.text(at, _SERIES_BOTTOM + 18, point.label, colour="muted", size=11, anchor="middle")
    middle = (_SERIES_LEFT + _SERIES_RIGHT) / 2
    picture.text(middle, _SERIES_BOTTOM + 38, series.axis, colour="muted", anchor="middle")


def _drawn_rows(report: Report, case: Case) -> list[Row]:
    found = (report.row(case.name, tier) for tier in COLOURS)
    return [row for row in found if row is not None]


def _caption(report: Report) -> str:
    where = report.conditions
    quick = " Short run on a busy machine, not to be quoted." if report.run == "quick" else ""
    changes = " with changes" if where.uncommitted_changes else ""
    versions = ", ".join(
        f"{name} {version}"
        for name, version in where.versions.items()
        if name in {"mlflow", "opentelemetry-sdk", "langfuse", "langsmith"}
    )
    return (
        f"Median of blocks taken in turns by all on one machine; spanferry sends to a real Kafka, "
        f"the others to a stub that answers at once where no server is named. {where.cpu}, "
        f"{where.cores} cores, Python {where.python}, {versions}; commit {where.commit}{changes}, "
        f"{where.at}, load {where.load_1m} before and {report.load_after} after.{quick}"
    )


def write(path: Path) -> list[Path]:
    """Draw what the report at `path` holds; the files written."""
    return write_beside(path, pictures(msgspec.json.decode(path.read_bytes(), type=Report)))


if __name__ == "__main__":
    for one in write(Path(sys.argv[1])):
        print(one)
