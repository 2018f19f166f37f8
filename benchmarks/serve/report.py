"""From answers to figures: by block, over all blocks, and as ratios of blocks of one round."""

from collections.abc import Callable

import msgspec

from benchmarks.machine import Conditions
from benchmarks.report import Figure, Verdict, figure, percentile

__all__ = ["BlockFigures", "Memory", "Report", "Row", "make_block", "make_row", "ratio"]


class BlockFigures(msgspec.Struct, kw_only=True):
    """One tier in one case in one round. Milliseconds."""

    round: int
    rate: float
    """Answered a second."""
    p50: float
    p99: float
    cpu: float
    """Of the serving process, a request, until all traces had left; with a dead Kafka until the load
    ended."""
    rss_mb: float
    requests: int
    unanswered: int
    failed: int
    late_p99: float | None
    """How late the load generator itself sent a request."""


class Row(msgspec.Struct, kw_only=True):
    """One tier in one case. Milliseconds."""

    case: str
    tier: str
    rate: Figure
    p50: Figure
    p99: Figure
    p999: float | None
    """Of all blocks together; None where they have fewer than 1,000 latencies."""
    cpu: Figure
    rss_mb: float
    """The most after a block."""
    requests: int
    unanswered: int
    failed: int
    made: int
    """Traces, warm-up included."""
    lost: int
    """Of them never arrived."""
    blocks: list[BlockFigures]


class Memory(msgspec.Struct, kw_only=True):
    """An app whose buffer is full because Kafka has never been there, beside the same app untraced."""

    tier: str
    buffer_bytes: int
    buffered_bytes: int
    dropped: int
    requests: int
    rss_mb: float
    """The most that the traced app took."""
    untraced_mb: float
    """The most that the untraced one took, after as many requests, with the same packages of MLflow."""


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    conditions: Conditions
    run: str
    """full, quick or part."""
    app_core: str
    other_core: str
    closed_by: str
    """What made closed-loop load."""
    model_s: float
    flask_threads: int
    load_after: float
    duration_s: float
    idle_cpu_share_max: float
    """The most that apps not being measured used of a core while another one was."""
    missing: dict[str, str]
    """Cases that did not run, and why."""
    verdicts: list[Verdict] = []
    memory: list[Memory]
    rows: list[Row]

    def row(self, case: str, tier: str) -> Row | None:
        """The row of a tier in a case, where the run has it."""
        return next((row for row in self.rows if row.case == case and row.tier == tier), None)


def make_row(
    case: str, tier: str, blocks: list[BlockFigures], latency_us: list[int], made: int, lost: int
) -> Row:
    """A row from its blocks; `latency_us` are those of all of them."""
    pooled = sorted(latency_us)
    return Row(
        case=case,
        tier=tier,
        rate=figure([block.rate for block in blocks]),
        p50=figure([block.p50 for block in blocks]),
        p99=figure([block.p99 for block in blocks]),
        p999=_ms(percentile(pooled, 0.999)) if len(pooled) >= 1000 else None,
        cpu=figure([block.cpu for block in blocks]),
        rss_mb=max(block.rss_mb for block in blocks),
        requests=sum(block.requests for block in blocks),
        unanswered=sum(block.unanswered for block in blocks),
        failed=sum(block.failed for block in blocks),
        made=made,
        lost=lost,
        blocks=blocks,
    )


def make_block(
    number: int,
    latency_us: list[int],
    late_us: list[int],
    *,
    rate: float,
    cpu_ms: float,
    rss_mb: float,
    requests: int,
    unanswered: int,
    failed: int,
) -> BlockFigures:
    """Figures of one block."""
    ordered = sorted(latency_us)
    return BlockFigures(
        round=number,
        rate=_significant(rate),
        p50=_ms(percentile(ordered, 0.5)),
        p99=_ms(percentile(ordered, 0.99)),
        cpu=_significant(cpu_ms),
        rss_mb=_significant(rss_mb),
        requests=requests,
        unanswered=unanswered,
        failed=failed,
        late_p99=_ms(percentile(sorted(late_us), 0.99)) if late_us else None,
    )


def ratio(over: Row, under: Row, measure: Callable[[BlockFigures], float]) -> Figure | None:
    """`over` by `under`, round by round; None where they have no round in common."""
    theirs = {block.round: measure(block) for block in under.blocks}
    found = [
        measure(block) / theirs[block.round] for block in over.blocks if theirs.get(block.round)
    ]
    return figure(found) if found else None


def _ms(microseconds: float) -> float:
    return _significant(microseconds / 1000)


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
