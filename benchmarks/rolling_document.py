"""Writes the figures of a rolling restart into docs/operations.md: `python -m benchmarks.rolling_document`.

A test fails while they are not what the published results say.
"""

import statistics
from pathlib import Path

import msgspec

from benchmarks.machine import in_words
from benchmarks.rolling_report import RESULTS, WORKERS, Figures, Report
from benchmarks.sections import with_section

__all__ = ["PAGE", "page", "paragraph"]

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
BEGIN = (
    "<!-- made by `python -m benchmarks.rolling_document` from benchmarks/results/rolling.json -->"
)
END = "<!-- end -->"
TITLES = {"dynamic": "without names", "static": "with names (`--group-instance-id`)"}


def paragraph(report: Report) -> str:
    """What was done, and what it cost."""
    first = report.figures[0]
    sent = sum(one.traces for one in report.figures)
    judged = sum(one.judged for one in report.figures)
    lost = sum(one.lost for one in report.figures)
    doubled = sum(one.doubled for one in report.figures)
    rows = "\n".join(map(_row, report.figures))
    return f"""\
{WORKERS} workers restarted one after another at {first.rate:.0f} traces/s, each once the one before had \
caught up (`python -m benchmarks.rolling`). Lag is counted in records that are not committed, so traces that \
are being written belong to it. Seconds are medians of the {WORKERS} restarts, in brackets the longest.

| members | SIGTERM to the end | boot | store | join | lag before | at most | as before, after readiness | \
a partition stood before | at most |
|---|---|---|---|---|---|---|---|---|---|
{rows}

Boot is Python until the worker serves its pages, store is MLflow's imports and the look at its tables, \
join the rest: topics, group, partitions. With names the partitions of the one that restarts wait for it, \
from its end until it has joined, while the others go on undisturbed; without, all stand for a moment when \
it goes and when the next one comes. {sent:,} traces of 5 spans and {judged:,} assessments: {lost} lost, \
{doubled} doubled.

Measured {report.conditions.at} (load {report.conditions.load_1m:g}): {in_words(report.conditions)}.
"""


def _row(one: Figures) -> str:
    def seconds(values: list[float]) -> str:
        return f"{statistics.median(values):.1f} s ({max(values):.1f})"

    recovered = [each.recovery_s for each in one.restarts]
    known = [value for value in recovered if value is not None]
    cells = [
        TITLES[one.membership],
        seconds([each.stop_s for each in one.restarts]),
        seconds([each.boot_s for each in one.restarts]),
        seconds([each.store_s for each in one.restarts]),
        seconds([each.join_s for each in one.restarts]),
        f"{one.lag_before:,}",
        f"{max(each.lag_peak for each in one.restarts):,}",
        seconds(known) if len(known) == len(recovered) else "not within a minute",
        f"{one.stand_before_s:.1f} s",
        f"{one.stand_s:.1f} s",
    ]
    return f"| {' | '.join(cells)} |"


def page(report: Report) -> str:
    """docs/operations.md as it stands, with the figures made anew."""
    return with_section(PAGE.read_text(), BEGIN, paragraph(report), END)


if __name__ == "__main__":
    PAGE.write_text(page(msgspec.json.decode(RESULTS.read_bytes(), type=Report)))
