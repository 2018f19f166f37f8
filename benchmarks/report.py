"""From samples to figures: per block, pooled, and as ratios of blocks that ran side by side."""

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.machine import Conditions
from benchmarks.subject import BlockResult

__all__ = ["BlockFigures", "Report", "Row", "make_row", "markdown", "percentile"]

_P99_SAMPLES_MIN = 100


class BlockFigures(msgspec.Struct):
    """One block of one SDK, in milliseconds of the calling thread unless named otherwise."""

    p50: float
    p99: float
    max: float
    cpu_p50: float
    process_cpu: float
    """Of all threads, a trace, until everything was flushed."""
    rate: float
    """Traces a second that were really begun."""
    flush_s: float
    rss_mb: float
    samples: int


class Row(msgspec.Struct):
    """One SDK in one case: the medians of its blocks, with the lowest and highest block."""

    case: str
    payload: str
    mode: str
    style: str
    sdk: str
    p50: float
    p50_low: float
    p50_high: float
    p99: float | None
    """Of all samples together; None below 100 samples, where only `max` says something."""
    p99_unqueued: float | None
    """The same without the time in which the machine had no core for the thread."""
    max: float
    cpu_p50: float
    process_cpu: float
    rate: float
    ratio: float | None
    """Median over the blocks of this SDK's p50 by spanferry's in the same block; None without it."""
    ratio_low: float | None
    ratio_high: float | None
    lag_p99: float | None
    lag_max: float | None
    samples: int
    made: int
    lost: int
    blocks: list[BlockFigures]


class Report(msgspec.Struct):
    """The result file."""

    conditions: Conditions
    blocks: int
    scale: float
    idle_cpu_share_max: float
    """The most that SDKs not being measured used of a core while another one was."""
    unquiet_blocks: int
    """Blocks after which a process had not come to rest within a few seconds of its flush."""
    kafka_records: int
    kafka_records_expected: int
    """What spanferry counted as acknowledged."""
    load_after: float
    duration_s: float
    rows: list[Row]


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Nearest rank on sorted values."""
    rank = max(0, -(-int(share * 1000) * len(sorted_values) // 1000) - 1)
    return sorted_values[min(rank, len(sorted_values) - 1)]


def _ms(values_ns: Iterable[int]) -> list[float]:
    return sorted(value / 1e6 for value in values_ns)


def _figures(result: BlockResult) -> BlockFigures:
    wall, cpu = _ms(result.wall_ns), _ms(result.cpu_ns)
    return BlockFigures(
        p50=percentile(wall, 0.5),
        p99=percentile(wall, 0.99),
        max=wall[-1],
        cpu_p50=percentile(cpu, 0.5),
        process_cpu=result.process_cpu_ns / 1e6 / len(wall),
        rate=len(wall) / result.elapsed_s,
        flush_s=result.flush_s,
        rss_mb=result.rss_mb,
        samples=len(wall),
    )


def make_row(
    names: dict[str, str], results: list[BlockResult], ours: list[BlockResult], lost: int
) -> Row:
    """A row from the blocks of one SDK and spanferry's blocks of the same case, in their order.

    `names` holds case, payload, mode, style and sdk.
    """
    blocks = [_figures(result) for result in results]
    p50s = [block.p50 for block in blocks]
    wall = _ms(value for result in results for value in result.wall_ns)
    unqueued = _ms(
        wall - queued
        for result in results
        for wall, queued in zip(result.wall_ns, result.queued_ns, strict=True)
    )
    lag = _ms(value for result in results for value in result.lag_ns)
    ratios = [
        theirs.p50 / _figures(own).p50 for theirs, own in zip(blocks, ours, strict=False) if ours
    ]
    return Row(
        **names,
        p50=statistics.median(p50s),
        p50_low=min(p50s),
        p50_high=max(p50s),
        p99=_p99(wall),
        p99_unqueued=_p99(unqueued),
        max=wall[-1],
        cpu_p50=statistics.median(block.cpu_p50 for block in blocks),
        process_cpu=statistics.median(block.process_cpu for block in blocks),
        rate=statistics.median(block.rate for block in blocks),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        lag_p99=percentile(lag, 0.99) if lag else None,
        lag_max=lag[-1] if lag else None,
        samples=len(wall),
        made=sum(result.made for result in results),
        lost=lost,
        blocks=[_rounded(block) for block in blocks],
    )


def _p99(sorted_ms: list[float]) -> float | None:
    return percentile(sorted_ms, 0.99) if len(sorted_ms) >= _P99_SAMPLES_MIN else None


def _rounded(block: BlockFigures) -> BlockFigures:
    values = {key: _significant(value) for key, value in msgspec.structs.asdict(block).items()}
    return msgspec.convert(values, BlockFigures)


def _significant(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


_COLUMNS = (
    "payload",
    "how",
    "SDK",
    "p50 ms (blocks)",
    "p99",
    "p99 less run queue",
    "max",
    "thread CPU p50",
    "process CPU a trace",
    "begun a s",
    "p50 / ours (blocks)",
    "lost",
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n"
_LAG_HEAD = (
    "| payload | SDK | loop lag p99 ms | max | trace p50 | p99 |\n|---|---|---|---|---|---|\n"
)


def markdown(report: Report) -> str:
    """The tables, and under them the conditions they hold for."""
    timed = [row for row in report.rows if row.lag_p99 is None]
    lagged = [row for row in report.rows if row.lag_p99 is not None]
    parts = [_HEAD + "\n".join(_line(row) for row in timed)] if timed else []
    if lagged:
        parts.append(
            "What other requests on the same event loop see:\n\n"
            + _LAG_HEAD
            + "\n".join(_lag_line(row) for row in lagged)
        )
    parts.append(_footer(report))
    return "\n\n".join(parts)


def _line(row: Row) -> str:
    ratio = (
        "-"
        if row.ratio is None or row.sdk == "spanferry"
        else f"{_short(row.ratio)} ({_short(row.ratio_low)}-{_short(row.ratio_high)})"
    )
    cells = [
        row.payload,
        row.mode if row.style == "with" else f"{row.mode}, {row.style}",
        row.sdk,
        f"{_short(row.p50)} ({_short(row.p50_low)}-{_short(row.p50_high)})",
        _short(row.p99),
        _short(row.p99_unqueued),
        _short(row.max),
        _short(row.cpu_p50),
        _short(row.process_cpu),
        _short(row.rate),
        ratio,
        f"{row.lost} of {row.made}",
    ]
    return "| " + " | ".join(cells) + " |"


def _lag_line(row: Row) -> str:
    values = (row.lag_p99, row.lag_max, row.p50, row.p99)
    cells = [row.payload, row.sdk, *map(_short, values)]
    return "| " + " | ".join(cells) + " |"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _footer(report: Report) -> str:
    where = report.conditions
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    return (
        f"{where.cpu}, {where.cores} cores, {where.memory_gb} GB, Linux {where.kernel}, "
        f"Python {where.python}; {versions}; commit {where.commit}"
        f"{' with changes' if where.uncommitted_changes else ''}; {where.at}; "
        f"load {where.load_1m} before, {report.load_after} after; {report.duration_s:.0f} s; "
        f"idle SDKs used at most {report.idle_cpu_share_max:.1%} of a core."
    )
