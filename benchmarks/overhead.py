"""What a traced request pays: calling-thread time of one trace of five spans, ours against peers.

    python -m benchmarks.overhead            all cases, below 8 minutes
    python -m benchmarks.overhead --quick    a minute

Method. Each SDK lives in a process of its own. They take turns in short blocks, in an order that
rotates from block to block, so that all of them meet the same machine; while one runs the others
have flushed and are at rest (what they still use of the CPU is measured and reported). A block
warms up, flushes, collects garbage, times each trace with perf_counter_ns and thread_time_ns, and
flushes. Every trace carries values of its own, made just before it outside the timing. spanferry
sends to a real Apache Kafka, acks=all; the peers to a stub that answers at once (benchmarks/stub.py:
a real server would be slower, never faster). All options are the defaults.

- tight: trace after trace, as many as fit into spanferry's buffer, so that the sender works beside
  the calling thread all the time.
- paced: traces start at a fixed rate; late ones start at once, and the rate reached is reported.
- loop: paced on an asyncio loop; a second task measures how late the loop gets.

Lost is what never arrived: not acknowledged by Kafka, or not seen whole by the stub. At the end
the records in Kafka's topic are counted against what spanferry says it sent.

SPANFERRY_TEST_KAFKA=host:port runs it against that broker instead of one of its own.
"""

import argparse
import contextlib
import os
import pickle
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import msgspec

from benchmarks.machine import conditions
from benchmarks.payloads import make_payload
from benchmarks.processes import StubServer, Subject, count_records, cpu_seconds
from benchmarks.report import Report, Row, make_row, markdown
from benchmarks.sdks import SDKS, Addresses
from benchmarks.subject import Block, BlockResult
from tests.services.kafka import KafkaServer

__all__ = ["Case", "Options", "main", "run"]

RESULTS = Path(__file__).parent / "results" / "overhead.json"
PARTITIONS = 6
_BURST_BYTES = 40_000_000
"""Of a tight block: within spanferry's buffer of 64 MiB, so that nothing need be dropped."""
_POOL_BYTES = 8_000_000
"""Of different payloads, so that they do not repeat within a compressed batch."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured side by side."""

    payload: str
    shape: str
    size: int
    mode: str
    style: str = "with"
    rate: float = 0.0
    count: int
    """Traces in a block."""
    seconds: float = 0.0
    """Of a tight block; it goes on until then, within the burst limit."""
    untraced: bool = False
    """Run the app without tracing as well."""

    @property
    def name(self) -> str:
        return f"{self.payload}/{self.how}/{self.style}"

    @property
    def how(self) -> str:
        return f"{self.mode} {self.rate:g}/s" if self.rate else self.mode


def _sized(payload: str, shape: str, size: int, tight: int, rate: float, paced: int) -> list[Case]:
    first = Case(payload=payload, shape=shape, size=size, mode="tight", count=tight, seconds=0.3)
    return [
        first,
        msgspec.structs.replace(first, mode="paced", rate=rate, count=paced, seconds=0.0),
    ]


CASES = [
    *_sized("10 KB", "chat", 10_000, 200, 100, 200),
    *_sized("100 KB", "chat", 100_000, 60, 100, 100),
    *_sized("1 MB", "chat", 1_000_000, 20, 20, 20),
    *_sized("1 MB rows", "rows", 1_000_000, 4, 2, 4),
    *_sized("10 MB", "chat", 10_000_000, 4, 2, 4),
    Case(payload="10 KB", shape="chat", size=10_000, mode="paced", rate=1000, count=600),
    Case(
        payload="10 KB", shape="chat", size=10_000, mode="paced", style="decorated",
        rate=100, count=100,
    ),
    Case(
        payload="10 KB", shape="chat", size=10_000, mode="loop", rate=100, count=150, untraced=True
    ),
]  # fmt: skip


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    sdks: tuple[str, ...] = tuple(SDKS)
    blocks: int = 4
    scale: float = 1.0
    """Of the traces in a block; at least two remain."""


class _Run:
    """One run: the subjects, and what they have answered so far."""

    def __init__(self, options: Options, folder: Path, stub: StubServer) -> None:
        self._options = options
        self._folder = folder
        self._stub = stub
        self._subjects: dict[str, Subject] = {}
        self._styles: dict[str, list[str]] = {}
        self._seen: dict[str, int] = defaultdict(int)
        self.results: dict[tuple[str, str], list[BlockResult]] = defaultdict(list)
        self.lost: dict[tuple[str, str], int] = defaultdict(int)
        self.idle_cpu_share_max = 0.0
        self.records_sent = 0

    def add(self, subject: Subject, addresses: Addresses) -> None:
        self._styles[subject.sdk] = subject.start(addresses)
        self._subjects[subject.sdk] = subject

    def block(self, case: Case, number: int) -> None:
        """One block of a case for every SDK in turn."""
        names = [
            sdk
            for sdk in self._subjects
            if case.style in self._styles[sdk] and (case.untraced or sdk != "untraced")
        ]
        turn = number % max(1, len(names))
        for sdk in names[turn:] + names[:turn]:
            others = [subject for subject in self._subjects.values() if subject.sdk != sdk]
            cpu, start = _cpu_of(others), time.perf_counter()
            result = self._subjects[sdk].run(self._block_of(case))
            share = (_cpu_of(others) - cpu) / (time.perf_counter() - start)
            self.idle_cpu_share_max = max(self.idle_cpu_share_max, share)
            key = (case.name, sdk)
            self.results[key].append(result)
            self.lost[key] += self._lost(sdk, result)

    def _block_of(self, case: Case) -> Block:
        scale = self._options.scale
        count = max(2, round(case.count * scale))
        return Block(
            payloads=str(self._payloads(case)),
            mode=case.mode,
            style=case.style,
            warm_up=max(2, min(20, count // 5)),
            count=count,
            count_max=max(2, min(round(_BURST_BYTES * scale) // case.size, 20_000))
            if case.seconds
            else count,
            seconds=case.seconds * scale,
            rate=case.rate,
        )

    def _payloads(self, case: Case) -> Path:
        path = self._folder / f"{case.shape}-{case.size}.pickle"
        if not path.exists():
            count = max(2, min(256, round(_POOL_BYTES * self._options.scale) // case.size))
            payloads = [
                pickle.dumps(make_payload(case.shape, case.size, seed)) for seed in range(count)
            ]
            path.write_bytes(pickle.dumps(payloads))
        return path

    def _lost(self, sdk: str, result: BlockResult) -> int:
        """Traces of the block that did not arrive."""
        if sdk == "untraced":
            return 0
        if sdk == "spanferry":
            arrived = int(str(result.counters["traces_sent"]))
            self.records_sent = int(str(result.counters["records_sent"]))
        else:
            arrived = self._stub.complete(sdk)
        before, self._seen[sdk] = self._seen[sdk], arrived
        return result.made - (arrived - before)


def _cpu_of(subjects: list[Subject]) -> float:
    return sum(cpu_seconds(subject.process.pid) for subject in subjects)


def run(options: Options, cases: list[Case], kafka: KafkaServer | None = None) -> Report:
    """Start what is needed, run every case block by block, stop everything.

    Uses `kafka` where one is given, and starts one else.
    """
    start = time.perf_counter()
    where = conditions()
    topic = f"spanferry.benchmark.{os.getpid()}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spanferry-bench-")))
        stub = stack.enter_context(StubServer())
        kafka = kafka or stack.enter_context(KafkaServer())
        kafka.create_topic(topic, PARTITIONS)
        stack.callback(kafka.delete_topic, topic)
        state = _Run(options, folder, stub)
        for sdk in options.sdks:
            subject = stack.enter_context(Subject(sdk))
            state.add(subject, Addresses(kafka=kafka.bootstrap_servers, topic=topic, stub=stub.url))
        for number in range(options.blocks):
            for case in cases:
                message = f"block {number + 1} of {options.blocks}: {case.name}"
                print(f"{time.perf_counter() - start:5.0f} s  {message}", file=sys.stderr)
                state.block(case, number)
        records = count_records(kafka.bootstrap_servers, topic)
    results = [result for blocks in state.results.values() for result in blocks]
    return Report(
        conditions=where,
        blocks=options.blocks,
        scale=options.scale,
        idle_cpu_share_max=round(state.idle_cpu_share_max, 4),
        unquiet_blocks=sum(not result.quiet for result in results),
        kafka_records=records,
        kafka_records_expected=state.records_sent,
        load_after=round(os.getloadavg()[0], 2),
        duration_s=round(time.perf_counter() - start, 1),
        rows=[
            _row(state, case, sdk)
            for case in cases
            for sdk in options.sdks
            if (case.name, sdk) in state.results
        ],
    )


def _row(state: _Run, case: Case, sdk: str) -> Row:
    names = {
        "case": case.name,
        "payload": case.payload,
        "mode": case.how,
        "style": case.style,
        "sdk": sdk,
    }
    ours = state.results.get((case.name, "spanferry"), [])
    key = (case.name, sdk)
    return make_row(names, state.results[key], ours, state.lost[key])


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print the table, write the JSON. 1 where spanferry lost a trace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one minute instead of eight")
    parser.add_argument("--blocks", type=int, help="blocks of each case and SDK (default 4)")
    parser.add_argument("--sdks", nargs="+", choices=list(SDKS), default=list(SDKS))
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument(
        "--out", type=Path, help=f"JSON file (default, full runs only: {RESULTS.name})"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    given = parser.parse_args(arguments)
    cases = [case for case in CASES if given.only in case.name]
    if given.list:
        print("\n".join(case.name for case in cases))
        return 0
    options = Options(
        sdks=tuple(given.sdks),
        blocks=given.blocks or (1 if given.quick else 4),
        scale=0.2 if given.quick else 1.0,
    )
    report = run(options, cases)
    full = not given.quick and not given.only and set(given.sdks) == set(SDKS)
    out = given.out or (RESULTS if full else None)
    if out:
        out.parent.mkdir(exist_ok=True)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print(markdown(report))
    lost = any(row.lost for row in report.rows if row.sdk == "spanferry")
    return 1 if lost or report.kafka_records != report.kafka_records_expected else 0


if __name__ == "__main__":
    sys.exit(main())
