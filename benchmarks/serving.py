"""What a served app pays for being traced: throughput, latencies, CPU and memory under load.

    python -m benchmarks.serving            everything, below 45 minutes
    python -m benchmarks.serving --quick    a look in two minutes; figures not to be quoted

Method. A FastAPI app under uvicorn and a Flask app under gunicorn (one worker, threads), once for every
way to trace, each in a process of its own; the endpoint is benchmarks/serve/work.py, the same in all of
them. They take turns in short blocks, in an order that rotates from round to round; while one is under
load the others have flushed and are at rest. A block warms up, flushes, loads, and flushes. Ratios are
taken within a round.

- closed: a fixed number of connections, each sending when it has its answer: what the app can take.
  By wrk where it is installed, else by benchmarks/serve/load.py.
- open: requests due at a constant rate, latency counted from when each was due, so that a slow answer
  does not keep the next request from being late (no coordinated omission). By benchmarks/serve/load.py.

Kafka is healthy, slow (stopped for 0.9 s of every second) or dead (shut down), the same load in all three
right after one another, in every round. MLflow and OpenTelemetry send to a stub that answers at once.
Memory is that of apps for which there never was a Kafka, loaded until their buffer is full and drops.

All app processes are on one core, all else is on another one: load generator, Kafka, stub, this
process. What tracing does on threads of its own therefore takes from the app's requests, as on a
machine whose cores are all in use. Kafka and stub give way to the load generator (nice 10).
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import msgspec

from benchmarks.machine import conditions
from benchmarks.processes import StubServer
from benchmarks.sdk import Addresses
from benchmarks.serve.account import Setup
from benchmarks.serve.blocks import Taken, limping, settle, take
from benchmarks.serve.cases import CASES, Case, Kafka
from benchmarks.serve.memory import full_buffer
from benchmarks.serve.processes import FLASK_THREADS, App, Load, pinned, polite
from benchmarks.serve.report import Memory, Report, make_row
from benchmarks.serve.tables import printed
from benchmarks.serve.verdicts import verdicts
from benchmarks.serve.work import MODEL_S
from tests.services.kafka import KafkaServer

__all__ = ["Options", "main", "run"]

RESULTS = Path(__file__).parent / "results"
PARTITIONS = 6
_PACKAGES = (
    "httpx",
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "h11",
    "flask",
    "gunicorn",
    "pydantic",
)
_QUICK_SECONDS, _QUICK_BUFFER = 2.0, 16 * 2**20
_BUFFER = 64 * 2**20


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    cases: tuple[Case, ...]
    rounds: int
    seconds: float = 0.0
    """Of every block; 0: what the case says."""
    buffer_bytes: int = _BUFFER
    """Of the apps whose memory is measured."""
    memory: tuple[str, ...] = ("spanferry", "bridge")
    wrk: bool = True
    run: str = "part"
    missing: dict[str, str] = {}


class _Run:
    """The apps, and what they have answered so far."""

    def __init__(self, options: Options, load: Load, kafka: KafkaServer, stub: StubServer) -> None:
        self._options = options
        self._load = load
        self._kafka = kafka
        self._stub = stub
        self._apps: dict[tuple[str, str], App] = {}
        self._start = time.perf_counter()
        self.taken: dict[tuple[str, str], list[Taken]] = defaultdict(list)
        self.lost: dict[tuple[str, str], int] = defaultdict(int)
        self.idle_cpu_share_max = 0.0

    def add(self, app: App) -> None:
        """An app that is being started."""
        self._apps[app.server, app.tier] = app

    def ready(self) -> None:
        """Wait for all of them."""
        for app in self._apps.values():
            app.wait_until_ready()

    def case(self, case: Case, number: int) -> None:
        """One block for every tier in turn, with Kafka in the state that the case says."""
        message = f"round {number + 1} of {self._options.rounds}: {case.name}"
        print(f"{time.perf_counter() - self._start:5.0f} s  {message}", file=sys.stderr)
        turn = number % len(case.tiers)
        tiers = case.tiers[turn:] + case.tiers[:turn]
        apps = [self._apps[case.server, tier] for tier in tiers]
        if case.kafka == Kafka.SLOW:
            with limping(self._kafka):
                found = [self._block(case, app, number, flush=True) for app in apps]
        elif case.kafka == Kafka.DEAD:
            self._kafka.stop()
            found = [self._block(case, app, number, flush=False) for app in apps]
            self._kafka.start()
            polite(self._kafka.pid)
        else:
            found = [self._block(case, app, number, flush=True) for app in apps]
        for app, taken in zip(apps, found, strict=True):
            self.taken[case.name, app.tier].append(taken)
            if case.kafka == Kafka.DEAD:
                self.lost[case.name, app.tier] += settle(app, self._stub, taken)

    def _block(self, case: Case, app: App, number: int, *, flush: bool) -> Taken:
        others = [other for other in self._apps.values() if other is not app]
        cpu, start = sum(other.cpu_seconds() for other in others), time.perf_counter()
        seconds = self._options.seconds or case.seconds
        taken = take(app, self._load, case, number, seconds, flush=flush)
        if flush:
            self.lost[case.name, app.tier] += settle(app, self._stub, taken)
        cpu = sum(other.cpu_seconds() for other in others) - cpu
        share = cpu / (time.perf_counter() - start)
        self.idle_cpu_share_max = max(self.idle_cpu_share_max, share)
        return taken


def run(options: Options) -> Report:
    """Start what is needed, run every case round by round, stop everything."""
    start = time.perf_counter()
    where = conditions(*_PACKAGES)
    memory: list[Memory] = []
    with contextlib.ExitStack() as stack:
        cores = stack.enter_context(pinned())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spanferry-serving-")))
        load = stack.enter_context(Load(folder, wrk=options.wrk))
        if options.memory:
            memory = full_buffer(load, cores, options.memory, options.buffer_bytes)
        stub = stack.enter_context(StubServer())
        kafka = stack.enter_context(KafkaServer(for_load=True))
        state = _Run(options, load, kafka, stub)
        if options.cases:
            polite(stub.process.pid)
            polite(kafka.pid)
            topic = kafka.create_topic("serving", PARTITIONS)
            addresses = Addresses(kafka.bootstrap_servers, topic, stub.url)
            for server, tier in {
                (case.server, tier) for case in options.cases for tier in case.tiers
            }:
                state.add(stack.enter_context(App(server, Setup(tier, addresses), cores)))
            state.ready()
            for number in range(options.rounds):
                for case in options.cases:
                    if number < case.rounds:
                        state.case(case, number)
    report = Report(
        conditions=where,
        run=options.run,
        app_core=cores.app,
        other_core=cores.others,
        closed_by=load.closed_by,
        model_s=MODEL_S,
        flask_threads=FLASK_THREADS,
        load_after=round(os.getloadavg()[0], 2),
        duration_s=round(time.perf_counter() - start, 1),
        idle_cpu_share_max=round(state.idle_cpu_share_max, 4),
        missing=options.missing,
        memory=memory,
        rows=[
            make_row(
                case,
                tier,
                [one.figures for one in taken],
                [latency for one in taken for latency in one.latency_us],
                sum(one.made for one in taken),
                state.lost[case, tier],
            )
            for (case, tier), taken in state.taken.items()
        ],
    )
    report.verdicts = verdicts(report)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print the tables and the verdicts, write the JSON. 1 where spanferry lost a trace."""
    given = _parser().parse_args(arguments)
    options = _options(given)
    if given.list:
        print("\n".join(case.name for case in options.cases))
        return 0
    report = run(options)
    out: Path = given.out or RESULTS / (
        "serving.json" if options.run == "full" else "serving.tmp.json"
    )
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print(printed(report))
    return 1 if any(row.lost for row in report.rows if row.tier in {"spanferry", "bridge"}) else 0


def _options(given: argparse.Namespace) -> Options:
    cases = [case for case in CASES if given.only in case.name]
    part = bool(given.only or given.rounds or given.seconds or given.no_memory)
    if given.quick:
        cases = [msgspec.structs.replace(case, tiers=case.quick) for case in cases if case.quick]
    return Options(
        cases=tuple(cases),
        rounds=given.rounds or (1 if given.quick else max(case.rounds for case in CASES)),
        seconds=given.seconds or (_QUICK_SECONDS if given.quick else 0.0),
        buffer_bytes=_QUICK_BUFFER if given.quick else _BUFFER,
        memory=()
        if given.no_memory
        else ("spanferry",)
        if given.quick
        else ("spanferry", "bridge"),
        run="quick" if given.quick else "part" if part else "full",
        missing={
            case.name: "not in a quick run" for case in CASES if given.quick and not case.quick
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of short blocks")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--rounds", type=int, help="at most so many rounds")
    parser.add_argument("--seconds", type=float, help="of every block")
    parser.add_argument("--no-memory", action="store_true", help="do not fill buffers")
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file (default: results/serving.json of a whole run, else serving.tmp.json)",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser


if __name__ == "__main__":
    sys.exit(main())
