"""A report as Markdown: what a run prints, and what docs/benchmarks-serving.md is made of."""

from benchmarks.report import Figure
from benchmarks.sdks import TIERS
from benchmarks.serve.cases import CASES, Case
from benchmarks.serve.report import BlockFigures, Report, Row, ratio
from benchmarks.tables import number, spread, table, verdict_table

__all__ = ["break_even", "case_table", "conditions_line", "memory_table", "printed"]

_COLUMNS = (
    "", "answered a second (rounds)", "of untraced (rounds)", "p50 ms", "p99 ms (rounds)", "p99.9 ms",
    "CPU ms a request (rounds)", "more than untraced", "RSS MB", "not answered", "traces lost",
)  # fmt: skip


def printed(report: Report) -> str:
    """Everything that was measured, and the verdicts at the end."""
    parts = [f"## {case.name}\n\n{case_table(report, case)}" for case in measured(report)]
    if report.memory:
        parts.append(f"## Memory\n\n{memory_table(report)}")
    parts += [break_even(report), conditions_line(report)]
    parts.append(f"## Promises\n\n{verdict_table(report.verdicts)}")
    return "\n\n".join(part for part in parts if part)


def measured(report: Report) -> list[Case]:
    """The cases that the run has."""
    return [case for case in CASES if any(row.case == case.name for row in report.rows)]


def case_table(report: Report, case: Case) -> str:
    """All tiers in one case."""
    untraced = report.row(case.name, "untraced")
    rows = [row for tier in TIERS if (row := report.row(case.name, tier))]
    rows.sort(key=lambda row: row.tier != "untraced")
    return table(_COLUMNS, [_line(row, untraced) for row in rows])


def _line(row: Row, untraced: Row | None) -> list[str]:
    share = more = None
    if untraced and untraced is not row:
        share = ratio(row, untraced, lambda block: block.rate)
        more = _more(row, untraced)
    return [
        TIERS[row.tier].label,
        spread(row.rate),
        _percent(share),
        number(row.p50.median),
        spread(row.p99),
        number(row.p999),
        spread(row.cpu),
        number(more) if more is None or more >= 0 else "0",
        number(row.rss_mb),
        f"{row.unanswered + row.failed:,} of {row.requests + row.unanswered:,}",
        f"{row.lost:,} of {row.made:,}",
    ]


def _more(row: Row, untraced: Row) -> float | None:
    """CPU that tracing takes, ms a request."""

    def cpu(block: BlockFigures) -> float:
        return block.cpu

    share = ratio(row, untraced, cpu)
    return None if share is None else (share.median - 1) * untraced.cpu.median


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.median:.1%} ({figure.low:.1%}-{figure.high:.1%})"


def break_even(report: Report) -> str:
    """From how much CPU of its own on a request loses no more than was promised."""
    lines: list[str] = []
    for case in (case for case in measured(report) if not case.rate):
        untraced = report.row(case.name, "untraced")
        for tier, share in (("spanferry", 0.05), ("bridge", 0.10)):
            row = report.row(case.name, tier)
            more = _more(row, untraced) if row and untraced else None
            if more is not None and more > 0:
                lines.append(
                    f"- {case.server}: {TIERS[tier].label} takes {number(more)} ms of CPU a request, "
                    f"which is {share:.0%} of a request that takes {number(more / share)} ms of its own."
                )
    return "\n".join(lines)


def memory_table(report: Report) -> str:
    """RSS under a full buffer."""
    return table(
        (
            "",
            "buffer MB",
            "buffered MB",
            "traces dropped",
            "requests",
            "RSS MB",
            "untraced MB",
            "above",
        ),
        [
            [
                TIERS[one.tier].label,
                number(one.buffer_bytes / 1e6),
                number(one.buffered_bytes / 1e6),
                f"{one.dropped:,}",
                f"{one.requests:,}",
                number(one.rss_mb),
                number(one.untraced_mb),
                number(one.rss_mb - one.untraced_mb),
            ]
            for one in report.memory
        ],
    )


def conditions_line(report: Report) -> str:
    """What the figures hold for."""
    where = report.conditions
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    cores = (
        "apps and load wherever the kernel put them"
        if report.app_core == "-"
        else f"all apps on core {report.app_core}, load generator, Kafka and stub on core "
        f"{report.other_core}"
    )
    late = [block.late_p99 for row in report.rows for block in row.blocks if block.late_p99]
    lateness = (
        f"; the load generator sent at most {number(max(late))} ms late at p99" if late else ""
    )
    return (
        f"{where.cpu}, {where.cores} cores ({cores}), {where.memory_gb} GB, Linux {where.kernel}, "
        f"Python {where.python}; {versions}; closed load by {report.closed_by}; "
        f"commit {where.commit}{' with changes' if where.uncommitted_changes else ''}; {where.at}; "
        f"load {where.load_1m} before, {report.load_after} after; {report.duration_s:.0f} s; "
        f"idle apps used at most {report.idle_cpu_share_max:.1%} of a core{lateness}."
    )
