"""What the budget guard's own measuring costs a span: `python -m benchmarks.guard`, half a minute.

    python -m benchmarks.guard --quick    one round of each; figures not to be quoted

Method. One process, no Kafka: what is recorded is let go. Blocks of traces of 5 spans and 10 KB take turns:
none is watched; one of 128 is, as with plain values; one of 16, as where values are slow to record; all are;
all are, and the thread's CPU clock is read too, as the guard does before it shortens anything. What a block
takes of the calling thread's CPU more than the block without, in the same round, is the guard's, for each of
the block's spans. The guard's other part runs on the sender's thread: a look at the accounts that have come.

Results go to benchmarks/results/guard.json and, by `python -m benchmarks.document`, to docs/benchmarks.md.
What the guard executes is counted in benchmarks/instructions.py, and held by a test.
"""

import argparse
import gc
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import Conditions, conditions, in_words, when
from benchmarks.payloads import TracePayload, make_payload
from benchmarks.recorders import spans
from benchmarks.report import Figure, figure
from benchmarks.tables import number, table

__all__ = ["RESULTS", "Report", "Row", "main", "measure", "read", "section"]

RESULTS = Path(__file__).parent / "results" / "guard.json"
SPANS = 5
BLOCK = 1_024
ROUNDS = 15
WAYS: dict[str, tuple[int, bool]] = {
    "none": (0, False),
    "one of 128": (128, False),
    "one of 16": (16, False),
    "all": (1, False),
    "all, with the CPU clock": (1, True),
}
"""Every how many traces one is watched, and whether with the CPU clock."""
APIS = {"spanferry": "spanferry API", "bridge": "MLflow API on spanferry"}

HEAD = """\
## What the budget guard costs

One trace of 128 is watched, one of 16 where values are slow to record, and near the budget one every tenth of
a second; a watched trace has clocks around what takes time, all others do not know that there is a guard.
CPU nanoseconds of the calling thread for each span of all traces, more than with none watched; medians of
{rounds} rounds, in brackets the lowest and the highest. "From all" is the line for all by 128 and by 16,
which has less noise. The CPU clock is read while the guard makes sure that it is the values, and while less
is recorded.

"""

TAIL = """
On the sender's thread the guard looks ten times a second: {idle} us where nothing has come, {look} us where a
watched trace has, and {read} us for each one more. `python -m benchmarks.guard`; a test holds the
instructions that a watched trace executes (`python -m benchmarks.instructions`).

Measured {at}: {where}.

"""


class Row(msgspec.Struct, kw_only=True):
    """One API with so many traces watched; CPU of the calling thread, nanoseconds a span."""

    api: str
    way: str
    span_ns: Figure
    more_ns: Figure
    """Than in the block of the same round in which none was watched."""


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    conditions: Conditions
    quick: bool
    rounds: int
    rows: list[Row]
    idle_us: float
    """One look of the guard's, with nothing new."""
    look_us: float
    """With one account that has come."""
    read_us: float
    """What an account more takes."""


def measure(rounds: int) -> tuple[list[Row], list[float]]:
    """Rows, and the microseconds of a look: nothing new, one account, each one more. In this process."""
    import mlflow

    import spanferry
    from spanferry import bridge, outlet
    from spanferry.process import PROCESS
    from spanferry.settings import Settings

    class Outlet:
        settings = Settings(bootstrap_servers="none.invalid:9092", experiment="guarded")

        def put(self, waiting: Any) -> bool:
            return True

    outlet.install(Outlet())
    payload = make_payload("chat", 10_000, seed=1)
    rows = _rows("spanferry", spans(spanferry.start_span)["with"], payload, rounds)
    bridge.switch_on(accelerate=True)
    rows += _rows("bridge", spans(mlflow.start_span)["with"], payload, rounds)
    PROCESS.watch = None
    return rows, _look()


def _rows(
    api: str, record: Callable[[TracePayload], None], payload: TracePayload, rounds: int
) -> list[Row]:
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    names = list(WAYS)
    gc.collect()
    gc.disable()
    for turn in range(-1, rounds):  # the first is for the caches
        first = turn % len(names)
        for way in names[first:] + names[:first]:
            span_ns = _block(record, payload, *WAYS[way])
            if turn >= 0:
                taken[way].append(span_ns)
        gc.collect()
    gc.enable()
    none = taken["none"]
    return [
        Row(
            api=api,
            way=way,
            span_ns=_figure(found),
            more_ns=_figure([a - b for a, b in zip(found, none, strict=True)]),
        )
        for way, found in taken.items()
    ]


def _block(
    record: Callable[[TracePayload], None], payload: TracePayload, one_of: int, with_cpu: bool
) -> float:
    """CPU nanoseconds a span. What hands over the account is the sender's and not counted."""
    from spanferry.process import PROCESS
    from spanferry.watching import Account

    clock, done = time.thread_time_ns, deque[Account](maxlen=1_000)
    own = min(_clock_ns() for _ in range(100))
    total = 0
    for start in range(0, BLOCK, one_of or BLOCK):
        if one_of:
            PROCESS.watch, PROCESS.plain = Account(done, with_cpu), None
        count = min(one_of or BLOCK, BLOCK - start)
        began = clock()
        for _ in range(count):
            record(payload)
        total += clock() - began - own
    return total / (BLOCK * SPANS)


def _clock_ns() -> int:
    """What a look at the clock takes by itself."""
    began = time.thread_time_ns()
    return time.thread_time_ns() - began


def _look() -> list[float]:
    """Microseconds."""
    from spanferry.budget import Guard

    def took_us(accounts: int) -> float:
        guard, least = Guard(1.0), float("inf")
        for tenth in range(500):
            for _ in range(accounts if tenth > 400 else 10):
                account = guard.account()
                account.cost_ns = account.values_ns = 40_000
                account.done.append(account)
            began = time.thread_time_ns()
            guard.look(tenth / 10)
            if tenth > 401:  # the windows are full
                least = min(least, time.thread_time_ns() - began)
        return least / 1000

    none, one, ten = took_us(0), took_us(1), took_us(11)
    return [round(none, 2), round(one, 2), round((ten - one) / 10, 2)]


def _figure(values: list[float]) -> Figure:
    found = figure(values)
    return Figure(round(found.median, 1), round(found.low, 1), round(found.high, 1))


def read(path: Path = RESULTS) -> Report | None:
    """The published results, where there are any."""
    return msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else None


def section(report: Report) -> str:
    """The part of docs/benchmarks.md."""
    lines: list[list[str]] = []
    for way in list(WAYS)[1:]:
        found = [row for api in APIS for row in report.rows if (row.api, row.way) == (api, way)]
        lines.append([way, *(_more(row.more_ns) for row in found)])
        if way in {"one of 128", "one of 16"}:
            share = WAYS[way][0]
            every = [
                row for api in APIS for row in report.rows if (row.api, row.way) == (api, "all")
            ]
            lines.append(
                [f"{way}, from all", *(f"{number(row.more_ns.median / share)} ns" for row in every)]
            )
    where = report.conditions
    none = [row for api in APIS for row in report.rows if (row.api, row.way) == (api, "none")]
    lines.append(["a whole span, none watched", *(f"{row.span_ns.median:,.0f} ns" for row in none)])
    tail = TAIL.format(
        idle=number(report.idle_us),
        look=number(report.look_us),
        read=number(report.read_us),
        at=when(where),
        where=in_words(where),
    )
    head = HEAD.format(rounds=report.rounds)
    return f"{head}{table(('watched', *APIS.values()), lines)}\n{tail}"


def _more(found: Figure) -> str:
    return f"{found.median:,.0f} ns ({found.low:,.0f} to {found.high:,.0f})"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the section, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/guard.json)")
    given = parser.parse_args(arguments)
    rounds = 3 if given.quick else ROUNDS
    where = conditions("orjson")
    rows, (idle_us, look_us, read_us) = measure(rounds)
    report = Report(
        conditions=where,
        quick=given.quick,
        rounds=rounds,
        rows=rows,
        idle_us=idle_us,
        look_us=look_us,
        read_us=read_us,
    )
    out = given.out or (RESULTS.with_name("last.tmp.json") if given.quick else RESULTS)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print(section(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
