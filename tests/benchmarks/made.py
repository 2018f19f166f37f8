"""Blocks and reports with figures that are easy to check."""

from benchmarks.cases import ALL
from benchmarks.clocks import Samples
from benchmarks.machine import Conditions
from benchmarks.report import Report, make_row
from benchmarks.subject import BlockResult
from benchmarks.verdicts import verdicts

P50_MS = {
    "spanferry": 0.05, "bridge": 0.1, "bridge-plain": 0.4, "mlflow-pop": 0.9, "mlflow": 3.5,
    "mlflow-server": 6.5, "otel": 0.3, "langfuse": 1.5, "langsmith": 1.2, "untraced": 0.001,
}  # fmt: skip


def block(
    milliseconds: float, samples: int = 100, *, encode: float = 0.0, lag: bool = False
) -> BlockResult:
    """All traces but two took so long, half a millisecond of it waiting; two took 1 ms more."""
    usual, late = round(milliseconds * 1e6), round((milliseconds + 1) * 1e6)
    wall_ns = [usual] * (samples - 2) + [late] * 2
    return BlockResult(
        samples=Samples(
            wall_ns=wall_ns,
            cpu_ns=wall_ns,
            queued_ns=[min(500_000, usual)] * samples,
        ),
        encode_ns=[round(encode * 1e6)] * samples if encode else [],
        lag_ns=[2_000_000] * 100 if lag else [],
        made=samples + 2,
        elapsed_s=samples / 50,
        process_cpu_ns=sum(wall_ns),
        flush_s=0.1,
        flushed=True,
        quiet=True,
        rss_mb=50.0,
        counters={},
    )


def report(**changes: object) -> Report:
    """Every case and tier, each in three blocks; in every case the same figures but for its size."""
    rows = []
    for case in ALL:
        for tier in case.tiers:
            p50 = P50_MS[tier] * case.size / 10_000
            results = [
                block(
                    p50 * part,
                    encode=0.5 * case.size / 1e6 if case.encode else 0.0,
                    lag=case.mode == "async",
                )
                for part in (1, 2, 3)
            ]
            rows.append(make_row(case.name, tier, results, lost=0))
    made = Report(
        conditions=CONDITIONS,
        run="full",
        idle_cpu_share_max=0.01,
        unquiet_blocks=0,
        kafka_records=1,
        kafka_records_expected=1,
        load_after=0.5,
        duration_s=100.0,
        missing={},
        rows=rows,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    made.verdicts = verdicts(made)
    return made


CONDITIONS = Conditions(
    at="2026-01-02 03:04 UTC",
    commit="0123456789ab",
    uncommitted_changes=False,
    cpu="A <CPU> & more",
    cores=2,
    memory_gb=8.0,
    kernel="6.1",
    python="3.11.7",
    versions={"spanferry": "0.1.0", "mlflow": "3.17.2"},
    load_1m=0.1,
)
