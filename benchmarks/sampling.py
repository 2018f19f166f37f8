"""What deciding on a trace costs a worker, by policy.

    python -m benchmarks.sampling           the figure of docs/sampling.md, in about half a minute
    python -m benchmarks.sampling --quick   a look in three seconds; not to be quoted

Method. One process, no Kafka, no store: 2,000 assembled traces of five spans, sizes lognormal (median 10 KB,
99th percentile 5 MB), are decided by one policy after the other, block by block in an order that rotates. CPU
time of the thread; the median of the blocks, and their quartiles. Cutting payloads is not deciding; it is a
column of its own, over those traces that are cut.
"""

import argparse
import math
import random
import statistics
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.machine import conditions
from spanferry_schemas import Span, StatusCode, TracePart
from spanferry_worker.stages.sample import (
    LIVE,
    Action,
    Outcome,
    Rule,
    Sampler,
    SamplingPolicy,
    Table,
)
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["POLICIES", "Row", "main", "make_traces", "measure", "table"]

RESULTS = Path(__file__).parent / "results" / "sampling.json"
_TABLE = Table(1, {LIVE: 200_000.0}, 1, {"answer": 5.0})
_FIRST = [
    Rule(name="errors", error=True, action=Action.KEEP),
    Rule(name="feedback", feedback=True, action=Action.KEEP),
    Rule(name="slow", slow=True, action=Action.KEEP),
]
POLICIES = {
    "everything whole": SamplingPolicy(target_bytes=0),
    "the default": SamplingPolicy(),
    "a budget": SamplingPolicy(
        budget_bytes_s=10**6, rules=[*_FIRST, Rule(name="rest", action=Action.BUDGET)]
    ),
    "ten rules by name and tag": SamplingPolicy(
        rules=[
            *(
                Rule(name=f"r{n}", names=[f"GET /{n}*"], tags={"tier": "x*"}, action=Action.DROP)
                for n in range(7)
            ),
            *_FIRST,
            Rule(name="rest", action=Action.TARGET_BYTES, target_bytes=100_000),
        ]
    ),
}


class Row(msgspec.Struct, frozen=True):
    """One policy: microseconds of CPU a trace, of every block."""

    policy: str
    decide_us: list[float]
    cut_us: list[float]
    cut_share: float


def make_traces(count: int, seed: int = 1) -> list[AssembledTrace]:
    """Traces as assembly gives them; their payloads are as long as their size says, up to 1 MB."""
    chance = random.Random(seed)
    sigma = math.log(500) / 2.326
    return [
        _trace(chance.randbytes(16), int(10_000 * math.exp(sigma * chance.gauss(0, 1))) + 300)
        for _ in range(count)
    ]


def _trace(trace_id: bytes, size: int) -> AssembledTrace:
    payload = b'"' + b"x" * min(size // 10, 100_000) + b'"'
    spans = [
        Span(
            number.to_bytes(8, "big"),
            None if number == 5 else (5).to_bytes(8, "big"),
            "answer" if number == 5 else "step",
            "CHAIN",
            10**18,
            10**18 + 10**8,
            StatusCode.OK,
            {"mlflow.spanInputs": payload, "mlflow.spanOutputs": payload},
        )
        for number in range(1, 6)
    ]
    return AssembledTrace(
        trace_id=trace_id,
        trace=TracePart(tags={"tier": "gold"}, metadata={"mlflow.trace.session": "s"}),
        spans=spans,
        assessments=[],
        reason=FinishReason.COMPLETE,
        complete=True,
        size=size,
        positions=[],
    )


def measure(traces: list[AssembledTrace], blocks: int) -> list[Row]:
    """All policies in turns."""
    samplers = {name: Sampler(policy) for name, policy in POLICIES.items()}
    rows = {name: Row(name, [], [], 0.0) for name in samplers}
    for block in range(blocks):
        names = list(samplers)
        turn = block % len(names)
        for name in names[turn:] + names[:turn]:
            sampler = samplers[name]
            began = time.thread_time_ns()
            decisions = [sampler.decide(trace, _TABLE) for trace in traces]
            decided = time.thread_time_ns()
            cut = [
                trace
                for trace, decision in zip(traces, decisions, strict=True)
                if decision.outcome is Outcome.SKELETON
            ]
            rows[name].decide_us.append((decided - began) / 1000 / len(traces))
            began = time.thread_time_ns()
            for trace in cut:
                sampler.cut(trace)
            rows[name].cut_us.append((time.thread_time_ns() - began) / 1000 / max(1, len(cut)))
            rows[name] = msgspec.structs.replace(rows[name], cut_share=len(cut) / len(traces))
    return list(rows.values())


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = [
        "| policy | to decide, us a trace | traces cut | to cut one, us |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.policy} | {_cell(row.decide_us)} | {row.cut_share:.0%} | "
        f"{_cell(row.cut_us) if row.cut_share else ''} |"
        for row in rows
    ]
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="What deciding on a trace costs.")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    before = conditions()
    rows = measure(make_traces(200 if quick else 2_000), 5 if quick else 41)
    print(table(rows))
    if not quick:
        result = {"conditions": before, "rows": rows}
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
