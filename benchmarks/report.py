"""From samples to figures: by block, over all blocks, and as ratios of blocks that ran side by side."""

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.machine import Conditions
from benchmarks.subject import BlockResult

__all__ = [
    "BlockFigures",
    "Figure",
    "Report",
    "Row",
    "Verdict",
    "figure",
    "make_row",
    "percentile",
    "ratio",
]

P99_SAMPLES_MIN = 100


class Figure(msgspec.Struct, frozen=True):
    """The median of the blocks, and the lowest and the highest block."""

    median: float
    low: float
    high: float


class BlockFigures(msgspec.Struct, kw_only=True):
    """One block of one tier, in milliseconds of the calling thread unless named otherwise."""

    p50: float
    p99: float | None
    """None below 100 samples."""
    max: float
    cpu_p50: float
    process_cpu: float
    """Of all threads, a trace, until everything was flushed."""
    encode_p50: float | None
    """One msgspec encode of such a payload, in the same rhythm once everything was flushed."""
    rate: float
    """Traces a second that were really begun."""
    flush_s: float
    rss_mb: float
    samples: int


class Row(msgspec.Struct, kw_only=True):
    """One tier in one case, in milliseconds."""

    case: str
    tier: str
    p50: Figure
    p99: Figure | None
    """None where blocks have below 100 samples."""
    p99_pooled: float | None
    """Of all samples together; None below 100 of them, where only `max` says something."""
    p99_unqueued: float | None
    """The same without the time in which the machine had no core for the thread."""
    max: float
    cpu_p50: Figure
    process_cpu: Figure
    encode_p50: Figure | None
    encode_ratio: Figure | None
    """The p50 by that of one msgspec encode in the same block."""
    rate: Figure
    lag_p99: float | None
    lag_max: float | None
    samples: int
    made: int
    lost: int
    blocks: list[BlockFigures]

    @property
    def best_p99(self) -> float | None:
        """The median of the blocks, or where they are too short what all samples say."""
        return self.p99.median if self.p99 else self.p99_pooled


class Verdict(msgspec.Struct, kw_only=True):
    """A promise beside what was measured."""

    promise: str
    where: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str
    """times or ms."""
    measured: Figure | None
    """None where the run did not measure it."""
    holds: bool | None


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    conditions: Conditions
    run: str
    """main, full, quick or part."""
    idle_cpu_share_max: float
    """The most that tiers not being measured used of a core while another one was."""
    unquiet_blocks: int
    """Blocks after which a process had not come to rest within a few seconds of its flush."""
    kafka_records: int
    kafka_records_expected: int
    """What spanferry counted as acknowledged."""
    load_after: float
    duration_s: float
    missing: dict[str, str]
    """Tiers that did not run, and why."""
    verdicts: list[Verdict] = []
    rows: list[Row]

    def row(self, case: str, tier: str) -> Row | None:
        """The row of a tier in a case, where the run has it."""
        return next((row for row in self.rows if row.case == case and row.tier == tier), None)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Nearest rank on sorted values."""
    rank = max(0, -(-int(share * 1000) * len(sorted_values) // 1000) - 1)
    return sorted_values[min(rank, len(sorted_values) - 1)]


def ratio(over: Row, under: Row, measure: str, *, less: Row | None = None) -> Figure | None:
    """How many times `under` goes into `over`: the quotient of what the table shows of both, and the
    least and the most of the blocks, of which those are compared that ran side by side.

    `measure` is p50 or p99; where the blocks are too short for a p99, that of all samples is taken.
    With `less` its p50 is taken off both first.
    """
    floors = [0.0] * len(over.blocks) if less is None else [block.p50 for block in less.blocks]
    blocks = [
        (getattr(a, measure), getattr(b, measure), floor)
        for a, b, floor in zip(over.blocks, under.blocks, floors, strict=False)
    ]
    if all(a and b and b > floor for a, b, floor in blocks):
        by_block = figure([(a - floor) / (b - floor) for a, b, floor in blocks])
        off = 0.0 if less is None else less.p50.median
        shown, own = getattr(over, measure).median - off, getattr(under, measure).median - off
        return Figure(_significant(shown / own), by_block.low, by_block.high)
    if measure == "p99" and over.p99_pooled and under.p99_pooled:
        return figure([over.p99_pooled / under.p99_pooled])
    return None


def make_row(case: str, tier: str, results: list[BlockResult], lost: int) -> Row:
    """A row from the blocks of one tier, in their order."""
    blocks = [_block(result) for result in results]
    wall = _ms(value for result in results for value in result.samples.wall_ns)
    unqueued = _ms(
        wall - queued
        for result in results
        for wall, queued in zip(result.samples.wall_ns, result.samples.queued_ns, strict=True)
    )
    lag = _ms(value for result in results for value in result.lag_ns)
    return Row(
        case=case,
        tier=tier,
        p50=figure([block.p50 for block in blocks]),
        p99=_figure_or_none([block.p99 for block in blocks]),
        p99_pooled=_p99(wall),
        p99_unqueued=_p99(unqueued),
        max=_significant(wall[-1]),
        cpu_p50=figure([block.cpu_p50 for block in blocks]),
        process_cpu=figure([block.process_cpu for block in blocks]),
        encode_p50=_figure_or_none([block.encode_p50 for block in blocks]),
        encode_ratio=_figure_or_none(
            [block.p50 / block.encode_p50 if block.encode_p50 else None for block in blocks]
        ),
        rate=figure([block.rate for block in blocks]),
        lag_p99=_significant(percentile(lag, 0.99)) if lag else None,
        lag_max=_significant(lag[-1]) if lag else None,
        samples=len(wall),
        made=sum(result.made for result in results),
        lost=lost,
        blocks=blocks,
    )


def _block(result: BlockResult) -> BlockFigures:
    wall, cpu = _ms(result.samples.wall_ns), _ms(result.samples.cpu_ns)
    encode = _ms(result.encode_ns)
    return BlockFigures(
        p50=_significant(percentile(wall, 0.5)),
        p99=_p99(wall),
        max=_significant(wall[-1]),
        cpu_p50=_significant(percentile(cpu, 0.5)),
        process_cpu=_significant(result.process_cpu_ns / 1e6 / len(wall)),
        encode_p50=_significant(percentile(encode, 0.5)) if encode else None,
        rate=_significant(len(wall) / result.elapsed_s),
        flush_s=_significant(result.flush_s),
        rss_mb=_significant(result.rss_mb),
        samples=len(wall),
    )


def _ms(values_ns: Iterable[int]) -> list[float]:
    return sorted(value / 1e6 for value in values_ns)


def _p99(sorted_ms: list[float]) -> float | None:
    if len(sorted_ms) < P99_SAMPLES_MIN:
        return None
    return _significant(percentile(sorted_ms, 0.99))


def figure(values: Sequence[float]) -> Figure:
    """Of one value a block."""
    return Figure(
        _significant(statistics.median(values)),
        _significant(min(values)),
        _significant(max(values)),
    )


def _figure_or_none(values: list[float | None]) -> Figure | None:
    known = [value for value in values if value is not None]
    return figure(known) if len(known) == len(values) else None


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
