"""What a traced request pays: calling-thread time of one trace, spanferry against MLflow and others.

    python -m benchmarks.overhead            the main table, below 20 minutes
    python -m benchmarks.overhead --full     and all series, below 50
    python -m benchmarks.overhead --quick    a look, 90 s; its figures are not to be quoted
    python -m benchmarks.overhead --peers    Langfuse and LangSmith too, where they are installed

Method. Each tier lives in a process of its own. They take turns in short blocks, in an order that
rotates from block to block, so that all of them meet the same machine; while one runs the others
have flushed and are at rest (what they still use of the CPU is measured and reported). A block
warms up, flushes, collects garbage, times each trace with perf_counter_ns and thread_time_ns, and
flushes. Every trace carries values of its own, made just before it outside the timing. spanferry
sends to a real Apache Kafka, acks=all; the others to a stub that answers at once (benchmarks/stub.py:
a real server is slower, and an SDK's threads that wait for it are in the app's way for longer); MLflow
in the main table to a real `mlflow server` as well. All options are the defaults.

- tight: trace after trace, as many as fit into spanferry's buffer, so that the sender works beside
  the calling thread all the time.
- paced: traces start at a fixed rate; late ones start at once, and the rate reached is reported.
- async: paced, as tasks of one event loop; only the time inside tracing calls counts, and another
  task measures how late the loop gets.

A megabyte and more is also compared with one msgspec encode of the same payload: in the same process
and rhythm, right after the block's flush, so that no sender slows it down.

Lost is what never arrived: not acknowledged by Kafka, not seen whole by the stub, not stored whole
by MLflow's server. At the end the records in Kafka's topic are counted against what spanferry says
it sent.

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
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.cases import ALL, MAIN, Case
from benchmarks.machine import conditions
from benchmarks.payloads import make_payload, make_tree
from benchmarks.processes import MlflowStore, StubServer, Subject, count_records, cpu_seconds
from benchmarks.report import Report, make_row
from benchmarks.rhythm import Rhythm
from benchmarks.sdk import Addresses
from benchmarks.sdks import TIERS, missing_package
from benchmarks.subject import Block, BlockResult
from benchmarks.tables import printed
from benchmarks.verdicts import verdicts
from tests.services.kafka import KafkaServer
from tests.services.mlflow import MlflowServer

__all__ = ["Options", "main", "run"]

RESULTS = Path(__file__).parent / "results"
PARTITIONS = 6
_BURST_BYTES = 40_000_000
"""Of a tight block: within spanferry's buffer of 64 MiB, so that nothing need be dropped."""
_POOL_BYTES = 8_000_000
"""Of different payloads, so that they do not repeat within a compressed batch."""
_BLOCKS, _SERIES_BLOCKS, _QUICK_BLOCKS = 6, 5, 2


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    tiers: tuple[str, ...]
    blocks: int = _BLOCKS
    """Of the main cases."""
    series_blocks: int = _SERIES_BLOCKS
    """Of the others."""
    scale: float = 1.0
    """Of the traces in a block; at least two remain."""
    run: str = "part"
    missing: dict[str, str] = {}


class _Run:
    """One run: the subjects, and what they have answered so far."""

    def __init__(
        self, options: Options, folder: Path, stub: StubServer, store: MlflowStore | None
    ) -> None:
        self._options = options
        self._folder = folder
        self._stub = stub
        self._store = store
        self._subjects: dict[str, Subject] = {}
        self._styles: dict[str, list[str]] = {}
        self._seen: dict[str, int] = defaultdict(int)
        self._records: dict[str, int] = {}
        self.results: dict[tuple[str, str], list[BlockResult]] = defaultdict(list)
        self.lost: dict[tuple[str, str], int] = defaultdict(int)
        self.idle_cpu_share_max = 0.0

    @property
    def records_sent(self) -> int:
        """What all tiers that send to Kafka say they have sent."""
        return sum(self._records.values())

    def start(self, subjects: list[Subject], addresses: Addresses) -> None:
        """Set them up, all at the same time."""
        for subject in subjects:
            subject.start(addresses)
        for subject in subjects:
            self._styles[subject.sdk] = subject.styles()
            self._subjects[subject.sdk] = subject

    def block(self, case: Case, number: int) -> None:
        """One block of a case for every tier in turn."""
        names = [tier for tier in self._subjects if tier in case.tiers]
        turn = number % max(1, len(names))
        for tier in names[turn:] + names[:turn]:
            if case.style not in self._styles[tier]:
                raise ValueError(f"{tier} cannot do {case.name}")
            others = [subject for subject in self._subjects.values() if subject.sdk != tier]
            cpu, start = _cpu_of(others), time.perf_counter()
            result = self._subjects[tier].run(self._block_of(case))
            share = (_cpu_of(others) - cpu) / (time.perf_counter() - start)
            self.idle_cpu_share_max = max(self.idle_cpu_share_max, share)
            self.results[case.name, tier].append(result)
            self.lost[case.name, tier] += self._lost(tier, case, result)

    def _block_of(self, case: Case) -> Block:
        scale = self._options.scale
        count = max(2, round(case.count * scale))
        rhythm = Rhythm(
            mode=case.mode,
            count=count,
            count_max=max(2, min(round(_BURST_BYTES * scale) // case.size, 20_000))
            if case.seconds
            else count,
            seconds=case.seconds * scale,
            rate=case.rate,
            threads=case.threads,
        )
        return Block(
            payloads=str(self._payloads(case)),
            style=case.style,
            warm_up=max(2, min(20, count // 5)),
            rhythm=rhythm,
            encode=case.encode,
        )

    def _payloads(self, case: Case) -> Path:
        path = self._folder / f"{case.shape}-{case.spans}-{case.size}.pickle"
        if not path.exists():
            count = max(2, min(256, round(_POOL_BYTES * self._options.scale) // case.size))
            payloads = [pickle.dumps(_payload(case, seed)) for seed in range(count)]
            path.write_bytes(pickle.dumps(payloads))
        return path

    def _lost(self, tier: str, case: Case, result: BlockResult) -> int:
        """Traces of the block that did not arrive."""
        back_end = TIERS[tier].back_end
        if back_end == "none":
            return 0
        if back_end == "stub":
            return result.made - self._stub.take(tier, case.spans)
        if back_end == "server":
            assert self._store is not None
            return result.made - self._store.take(case.spans)
        if back_end == "kafka":
            self._records[tier] = int(str(result.counters["records_sent"]))
        counter = "traces_sent" if back_end == "kafka" else "popped"
        arrived = int(str(result.counters[counter]))
        before, self._seen[tier] = self._seen[tier], arrived
        return result.made - (arrived - before)


def _payload(case: Case, seed: int) -> object:
    if case.shape == "tree":
        return make_tree(case.spans, case.size, seed)
    return make_payload(case.shape, case.size, seed)


def _cpu_of(subjects: list[Subject]) -> float:
    return sum(cpu_seconds(subject.process.pid) for subject in subjects)


def run(options: Options, cases: Sequence[Case], kafka: KafkaServer | None = None) -> Report:
    """Start what is needed, run every case block by block, stop everything.

    Uses `kafka` where one is given, and starts one else.
    """
    start = time.perf_counter()
    where = conditions()
    topic = f"spanferry.benchmark.{os.getpid()}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spanferry-bench-")))
        stub = stack.enter_context(StubServer())
        kafka = kafka or stack.enter_context(KafkaServer(for_load=True))
        kafka.create_topic(topic, PARTITIONS)
        stack.callback(kafka.delete_topic, topic)
        wanted = [tier for tier in options.tiers if any(tier in case.tiers for case in cases)]
        addresses = Addresses(kafka=kafka.bootstrap_servers, topic=topic, stub=stub.url)
        store = None
        if any(TIERS[tier].back_end == "server" for tier in wanted):
            server = stack.enter_context(MlflowServer())
            addresses.server, store = server.uri, MlflowStore(server)
        state = _Run(options, folder, stub, store)
        state.start([stack.enter_context(Subject(tier)) for tier in wanted], addresses)
        _blocks(state, options, cases, start)
        records = count_records(kafka.bootstrap_servers, topic)
    results = [result for blocks in state.results.values() for result in blocks]
    report = Report(
        conditions=where,
        run=options.run,
        idle_cpu_share_max=round(state.idle_cpu_share_max, 4),
        unquiet_blocks=sum(not result.quiet for result in results),
        kafka_records=records,
        kafka_records_expected=state.records_sent,
        load_after=round(os.getloadavg()[0], 2),
        duration_s=round(time.perf_counter() - start, 1),
        missing=options.missing,
        rows=[
            make_row(case.name, tier, state.results[case.name, tier], state.lost[case.name, tier])
            for case in cases
            for tier in options.tiers
            if (case.name, tier) in state.results
        ],
    )
    report.verdicts = verdicts(report)
    return report


def _blocks(state: _Run, options: Options, cases: Sequence[Case], start: float) -> None:
    for number in range(max(options.blocks, options.series_blocks)):
        for case in cases:
            blocks = options.blocks if case in MAIN else options.series_blocks
            if number < blocks:
                message = f"block {number + 1} of {blocks}: {case.name}"
                print(f"{time.perf_counter() - start:5.0f} s  {message}", file=sys.stderr)
                state.block(case, number)


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print the tables and the verdicts, write the JSON. 1 where spanferry lost a trace."""
    given = _parser().parse_args(arguments)
    cases = [case for case in (ALL if given.full else MAIN) if given.only in case.name]
    if given.list:
        print("\n".join(case.name for case in cases))
        return 0
    options = _options(given)
    report = run(options, cases)
    published = options.run == "full"
    out: Path = given.out or RESULTS / ("overhead.json" if published else "last.tmp.json")
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print(printed(report))
    lost = any(row.lost for row in report.rows if TIERS[row.tier].back_end == "kafka")
    return 1 if lost or report.kafka_records != report.kafka_records_expected else 0


def _options(given: argparse.Namespace) -> Options:
    wanted = [tier for tier in TIERS if tier in (given.tiers or TIERS)]
    missing: dict[str, str] = {}
    for tier in wanted:
        package = missing_package(tier)
        if package:
            missing[tier] = f"{package} is not installed"
        elif TIERS[tier].package and not given.peers and not given.tiers:
            missing[tier] = "not asked for (--peers)"
        elif TIERS[tier].back_end == "server" and given.quick and not given.tiers:
            missing[tier] = "not in a quick run"
    part = bool(given.only or given.tiers or given.blocks)
    kind = "quick" if given.quick else "part" if part else "full" if given.full else "main"
    blocks = given.blocks or (_QUICK_BLOCKS if given.quick else _BLOCKS)
    return Options(
        tiers=tuple(tier for tier in wanted if tier not in missing),
        blocks=blocks,
        series_blocks=given.blocks or (1 if given.quick else _SERIES_BLOCKS),
        scale=0.5 if given.quick else 1.0,
        run=kind,
        missing=missing,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all series besides the main table")
    parser.add_argument("--quick", action="store_true", help="few and short blocks")
    parser.add_argument("--peers", action="store_true", help="Langfuse and LangSmith too")
    parser.add_argument("--tiers", nargs="+", choices=list(TIERS), help="only these")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--blocks", type=int, help="blocks of each case and tier")
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file (default: results/overhead.json of a whole --full run, else last.tmp.json)",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser


if __name__ == "__main__":
    sys.exit(main())
