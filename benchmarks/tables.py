"""A report as Markdown: what a run prints, and what docs/benchmarks.md is made of."""

from collections.abc import Iterable, Sequence

from benchmarks.cases import MAIN, SERIES, Case, Series
from benchmarks.machine import in_words
from benchmarks.report import Figure, Report, Row, Verdict, ratio
from benchmarks.sdks import TIERS

__all__ = [
    "conditions_line",
    "encode_table",
    "lag_table",
    "main_table",
    "measured_series",
    "missing_line",
    "number",
    "printed",
    "series_table",
    "spread",
    "summary_table",
    "table",
    "verdict_table",
]

_MAIN_COLUMNS = (
    "", "p50 ms (blocks)", "p99 ms (blocks)", "p99 less run queue", "max", "thread CPU p50",
    "process CPU a trace", "begun a s", "p50 by spanferry's (blocks)", "lost",
)  # fmt: skip


def printed(report: Report) -> str:
    """Everything that was measured, and the verdicts at the end."""
    parts = [
        f"## {case.payload}, {case.spans} spans, {case.how}\n\n{table}"
        for case, table in [(case, main_table(report, case)) for case in MAIN]
        if table
    ]
    parts += [
        f"## {series.title}\n\np50 / p99 ms\n\n{series_table(report, series)}"
        for series in measured_series(report)
    ]
    if table := encode_table(report):
        parts.append(f"## p50 in msgspec encodes of the same payload\n\n{table}")
    if table := lag_table(report):
        parts.append(f"## What other tasks of the event loop see\n\n{table}")
    parts += [missing_line(report), conditions_line(report)]
    parts.append(f"## Promises\n\n{verdict_table(report.verdicts)}")
    return "\n\n".join(part for part in parts if part)


def main_table(report: Report, case: Case) -> str:
    """All tiers in one case, with spread; empty where the run does not have the case."""
    rows = _rows(report, case)
    own = report.row(case.name, "spanferry")
    return table(_MAIN_COLUMNS, [_main_line(row, own) for row in rows])


def _main_line(row: Row, own: Row | None) -> list[str]:
    times = ratio(row, own, "p50") if own and own is not row else None
    return [
        TIERS[row.tier].label,
        spread(row.p50),
        spread(row.p99) if row.p99 else number(row.p99_pooled),
        number(row.p99_unqueued),
        number(row.max),
        number(row.cpu_p50.median),
        number(row.process_cpu.median),
        number(row.rate.median),
        spread(times),
        f"{row.lost:,} of {row.made:,}",
    ]


def summary_table(report: Report, cases: Sequence[Case] = MAIN) -> str:
    """p50 / p99 of every tier, a column for each case."""
    return _matrix(report, [(case.how, case) for case in cases], by_tier=True)


def series_table(report: Report, series: Series) -> str:
    """p50 / p99, a line for each point and a column for each tier."""
    return _matrix(report, [(point.label, point.case) for point in series.points], by_tier=False)


def measured_series(report: Report) -> list[Series]:
    """Those of which the run has more than what the main table shows."""
    return [
        series
        for series in SERIES
        if any(point.case not in MAIN and _rows(report, point.case) for point in series.points)
    ]


def _matrix(report: Report, cases: Sequence[tuple[str, Case]], *, by_tier: bool) -> str:
    found = [(label, case) for label, case in cases if _rows(report, case)]
    # a tier belongs into a series where most of its cases have it
    tiers = [
        tier
        for tier in TIERS
        if sum(report.row(case.name, tier) is not None for _, case in found) * 2 > len(found)
    ]
    labels = [TIERS[tier].label for tier in tiers]
    cells = [[_cell(report.row(case.name, tier)) for tier in tiers] for _, case in found]
    heads = [label for label, _ in found]
    if by_tier:
        columns = zip(*cells, strict=True)
        lines = [[label, *column] for label, column in zip(labels, columns, strict=True)]
        return table(("", *heads), lines)
    lines = [[head, *line] for head, line in zip(heads, cells, strict=True)]
    return table(("", *labels), lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    lost = f", lost {100 * row.lost / row.made:.0f} %" if row.lost else ""
    return f"{number(row.p50.median)} / {number(row.best_p99)}{lost}"


def encode_table(report: Report) -> str:
    """How many msgspec encodes of the same payload a trace costs, where it was measured."""
    rows = [row for row in report.rows if row.encode_ratio]
    names = list(dict.fromkeys(row.case for row in rows))
    tiers = [tier for tier in TIERS if any(row.tier == tier for row in rows)]
    lines = [
        [name, *(spread(row.encode_ratio if row else None) for row in found)]
        for name in names
        for found in [[report.row(name, tier) for tier in tiers]]
    ]
    return table(("", *(TIERS[tier].label for tier in tiers)), lines)


def lag_table(report: Report) -> str:
    """How late the event loop got."""
    rows = [row for row in report.rows if row.lag_p99 is not None]
    lines = [[TIERS[row.tier].label, number(row.lag_p99), number(row.lag_max)] for row in rows]
    return table(("", "loop lag p99 ms", "max"), lines)


def verdict_table(verdicts: Iterable[Verdict]) -> str:
    """Each promise with the measured value and whether it holds."""
    lines = [
        [
            one.promise,
            one.where,
            f"≥ {one.at_least:g} {one.unit}" if one.at_least else f"≤ {one.at_most:g} {one.unit}",
            spread(one.measured) if one.measured else "not measured",
            {True: "yes", False: "**no**", None: "-"}[one.holds],
        ]
        for one in verdicts
    ]
    return table(("promise", "where", "promised", "measured (blocks)", "holds"), lines)


def missing_line(report: Report) -> str:
    """Which tiers did not run, and why."""
    if not report.missing:
        return ""
    names = (f"{TIERS[tier].label} ({why})" for tier, why in report.missing.items())
    return f"Not measured: {', '.join(names)}."


def conditions_line(report: Report) -> str:
    """What the figures hold for."""
    where = report.conditions
    return (
        f"{in_words(where)}; {where.at}; "
        f"load {where.load_1m} before, {report.load_after} after; {report.duration_s:.0f} s; "
        f"idle tiers used at most {report.idle_cpu_share_max:.1%} of a core; "
        f"{report.unquiet_blocks} blocks did not come to rest."
    )


def number(value: float | None) -> str:
    """Two or three digits that count."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def spread(figure: Figure | None) -> str:
    """The median, and the lowest and the highest block."""
    if figure is None:
        return "-"
    return f"{number(figure.median)} ({number(figure.low)}-{number(figure.high)})"


def _rows(report: Report, case: Case) -> list[Row]:
    found = (report.row(case.name, tier) for tier in TIERS)
    return [row for row in found if row is not None]


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; empty without lines."""
    if not lines:
        return ""
    ruler = "|" + "---|" * len(heads)
    return "\n".join([_line(heads), ruler, *map(_line, lines)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
