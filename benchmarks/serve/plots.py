"""The pictures of a report: `python -m benchmarks.serve.plots benchmarks/results/serving.json`.

Writes serving-throughput.svg, serving-kafka.svg (FastAPI) and serving-kafka-flask.svg beside serving.json,
as far as they were measured.
"""

import sys
from pathlib import Path

import msgspec

from benchmarks.plots import COLOURS
from benchmarks.report import Figure
from benchmarks.sdks import TIERS
from benchmarks.serve.cases import CASES, CLOSED, STATES, Case
from benchmarks.serve.report import Report, Row, ratio
from benchmarks.svg import LogScale, Picture, write_beside
from benchmarks.tables import number

__all__ = ["pictures", "write"]

_WIDTH, _LEFT, _RIGHT = 900, 240, 830
_ROW, _HEAD = 22, 34


def pictures(report: Report) -> dict[str, str]:
    """SVG by what it shows: throughput, kafka, kafka-flask."""
    found: dict[str, str] = {}
    closed = [case for case in CASES if not case.rate and report.row(case.name, "untraced")]
    if closed:
        found["throughput"] = _throughput(report, closed)
    for name, cases in zip(("kafka", "kafka-flask"), STATES, strict=True):
        states = [case for case in cases if report.row(case.name, "spanferry")]
        if len(states) > 1:
            found[name] = _states(report, states)
    return found


def _throughput(report: Report, cases: list[Case]) -> str:
    """What share of the untraced app's throughput is left, a panel for each app."""
    picture = Picture(
        _WIDTH,
        "What is left of an app's throughput",
        "Requests a second by those of the same app untraced in the same round. More is better.",
    )

    def x(share: float) -> float:
        return _LEFT + share * (_RIGHT - _LEFT)

    top = 70.0
    for case in cases:
        rows = _rows(report, case, without="untraced")
        bottom = top + _HEAD + len(rows) * _ROW
        picture.text(20, top + 20, _title(case), weight=600, size=13)
        for tick in (0, 0.25, 0.5, 0.75, 1):
            picture.line([(x(tick), top + 26), (x(tick), bottom - 4)], "grid")
            picture.text(x(tick), top + 20, f"{tick:.0%}", colour="muted", size=11, anchor="middle")
        for at, row in enumerate(rows):
            untraced = report.row(case.name, "untraced")
            share = ratio(row, untraced, lambda block: block.rate) if untraced else None
            if share:
                _bar(picture, row, share, x, top + _HEAD + at * _ROW + 8)
        top = bottom + 8
    return picture.written(top, _caption(report))


def _bar(picture: Picture, row: Row, share: Figure, x, y: float) -> None:
    colour, label = COLOURS.get(row.tier, "muted"), TIERS[row.tier].label
    own = TIERS[row.tier].back_end == "kafka"
    picture.text(_LEFT - 14, y + 4, label, anchor="end", weight=600 if own else 400)
    picture.line([(x(0), y), (x(share.median), y)], colour, 2)
    picture.line([(x(share.low), y), (x(share.high), y)], colour, 7, opacity=0.3)
    picture.dot(x(share.median), y, colour, note=f"{label}: {share.median:.1%} of untraced")
    text = f"{share.median:.1%}, {number(row.rate.median)}/s"
    end = x(max(share.high, share.median)) + 9
    if end > _RIGHT - 60:
        picture.text(
            x(min(share.low, share.median)) - 9, y - 4, text, colour="muted", size=11, anchor="end"
        )
    else:
        picture.text(end, y + 4, text, colour="muted", size=11)


def _states(report: Report, cases: list[Case]) -> str:
    """p50, p99 and p99.9 at the same rate with Kafka healthy, slow and dead."""
    panels = [(case, _rows(report, case)) for case in cases]
    drawn = [row for _, rows in panels for row in rows]
    low = min(row.p50.low for row in drawn)
    high = max(row.p999 or row.p99.high for row in drawn)
    scale = LogScale([low / 1.3, high * 1.6], _LEFT, _RIGHT)
    picture = Picture(
        _WIDTH,
        f"What a client waits for: {_title(cases[0])}, {cases[0].rate:g} requests a second",
        "p50, p99 and p99.9 of a request from when it was due, milliseconds, logarithmic. Less is better.",
    )
    top = 70.0
    for case, rows in panels:
        bottom = top + _HEAD + len(rows) * _ROW
        picture.text(20, top + 20, f"Kafka {case.kafka}", weight=600, size=13)
        for tick in scale.ticks():
            picture.line([(scale(tick), top + 26), (scale(tick), bottom - 4)], "grid")
            picture.text(
                scale(tick), top + 20, f"{tick:g} ms", colour="muted", size=11, anchor="middle"
            )
        for at, row in enumerate(rows):
            _range(picture, scale, row, top + _HEAD + at * _ROW + 8)
        top = bottom + 8
    return picture.written(top, _caption(report))


def _range(picture: Picture, scale: LogScale, row: Row, y: float) -> None:
    colour, label = COLOURS.get(row.tier, "muted"), TIERS[row.tier].label
    own = TIERS[row.tier].back_end == "kafka"
    picture.text(_LEFT - 14, y + 4, label, anchor="end", weight=600 if own else 400)
    picture.line([(scale(row.p99.low), y), (scale(row.p99.high), y)], colour, 7, opacity=0.25)
    end = row.p99.median
    if row.p999:
        end = max(end, row.p999)
        picture.line([(scale(row.p50.median), y), (scale(row.p999), y)], colour, 1.2)
        picture.dot(
            scale(row.p999), y, colour, hollow=True, note=f"{label}: p99.9 {number(row.p999)} ms"
        )
    picture.line([(scale(row.p50.median), y), (scale(row.p99.median), y)], colour, 1.8)
    for name, value in (("p50", row.p50.median), ("p99", row.p99.median)):
        picture.dot(scale(value), y, colour, note=f"{label}: {name} {number(value)} ms")
    text = f"{number(row.p50.median)} / {number(row.p99.median)} / {number(row.p999)}"
    picture.text(scale(max(end, row.p99.high)) + 9, y + 4, text, colour="muted", size=11)


def _rows(report: Report, case: Case, without: str = "") -> list[Row]:
    tiers = ["untraced", *(tier for tier in TIERS if tier != "untraced")]
    found = (report.row(case.name, tier) for tier in tiers if tier != without)
    return [row for row in found if row is not None]


def _title(case: Case) -> str:
    return {
        "fastapi": "FastAPI, uvicorn",
        "fastapi-httpx": "FastAPI that calls its model",
        "flask": "Flask, gunicorn threads",
        "flask-httpx": "Flask that calls its model",
    }[case.server]


def _caption(report: Report) -> str:
    where = report.conditions
    short = "" if report.run == "full" else " Short run on a busy machine, not to be quoted."
    cpu = report.row(CLOSED.name, "untraced")
    request = f"an untraced request takes {number(cpu.cpu.median)} ms of CPU; " if cpu else ""
    changes = " with changes" if where.uncommitted_changes else ""
    return (
        f"5 spans and 10 KB a request, {report.model_s * 1000:g} ms of it waiting; {request}all of an "
        f"app's threads on one core. Median and range of rounds in turns; spanferry sends to a real Kafka, "
        f"the others to a stub that answers at once. {where.cpu}, {where.cores} cores, Python "
        f"{where.python}; commit {where.commit}{changes}, {where.at}, load {where.load_1m} before and "
        f"{report.load_after} after.{short}"
    )


def write(path: Path) -> list[Path]:
    """Draw what the report at `path` holds; the files written."""
    return write_beside(path, pictures(msgspec.json.decode(path.read_bytes(), type=Report)))


if __name__ == "__main__":
    for one in write(Path(sys.argv[1])):
        print(one)
