"""What one giant trace costs its neighbours: the threads of the same process that trace small ones.

    python -m benchmarks.neighbours           10 MB and 100 MB, in about 5 minutes
    python -m benchmarks.neighbours --quick   one round; figures not to be quoted

Method. One process with spanferry enabled, and MLflow's API on it, and a real Kafka. Four threads record
traces of 5 spans and 10 KB, each at a constant rate; one more records giants, one after the other, each once
the one before has left the buffer. It takes turns round by round: no giant at all, json.dumps of the giant's
values in the place of tracing, spanferry's API, MLflow's API. A neighbour's trace counts for a phase of a
giant where it fell due, or was under way, in it: while the giant is recorded, while it is sent.

Inside is the time between the first tracing call of a small trace and the return of the last. Late is how
long after the trace was due it could begin: its thread waits for the interpreter, and for a core.
What was imported and made before is frozen (gc.freeze): a full collection of MLflow's objects holds all
threads up for 100 ms and more, whatever is recorded, and would be every line's maximum.

Results go to benchmarks/results/neighbours.json and, by `python -m benchmarks.document`, to
docs/benchmarks.md.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.machine import conditions
from benchmarks.neighbours_report import (
    ALONE,
    RECORDED,
    RESULTS,
    SENT,
    Report,
    Seen,
    make_rows,
    section,
)
from benchmarks.payloads import TracePayload, make_payload
from benchmarks.recorders import spans
from benchmarks.sdk import Addresses, enable_spanferry
from tests.services.kafka import KafkaServer

__all__ = ["GIANT_BYTES", "Beat", "Phase", "Plan", "giant", "main", "seen_of"]

PARTITIONS = 6
THREADS = 4
RATE = 400.0
"""Small traces a second, of all threads together."""
GIANT_BYTES = 2**20
BUFFER_BYTES = 256 * 2**20
_SENT_WITHIN_S = 60.0
_LOOK_S = 0.005
_REST_S = 0.05
"""Between two giants, and before a way's first."""
_ALONE_S = 3.0
_SMALL = 64
_ROOT = Path(__file__).parent.parent


class Plan(msgspec.Struct):
    """What the measured process is to do."""

    addresses: Addresses
    rounds: int = 5
    giants: dict[int, int] = msgspec.field(default_factory=lambda: {10: 20, 100: 3})
    """How many in a round, by megabytes."""


class Beat(NamedTuple):
    """One small trace, by perf_counter_ns."""

    due: int
    began: int
    ended: int


class Phase(NamedTuple):
    """Of one giant."""

    name: str
    began: int
    ended: int


class Neighbours:
    """Threads that record small traces until they are stopped."""

    def __init__(self, record: Callable[[TracePayload], None]) -> None:
        self._record = record
        self._payloads = [make_payload("chat", 10_000, seed) for seed in range(_SMALL)]
        self._stopped = threading.Event()
        self._beats: list[list[Beat]] = [[] for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)
        ]

    def start(self) -> None:
        """From now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Beat]:
        """No more; all there were."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return [beat for beats in self._beats for beat in beats]

    def _run(self, number: int) -> None:
        clock, beats, payloads = time.perf_counter_ns, self._beats[number], self._payloads
        step = int(1e9 * THREADS / RATE)
        due = clock() + number * step // THREADS
        while not self._stopped.is_set():
            time.sleep(max(0, due - clock()) / 1e9)
            began = clock()
            self._record(payloads[len(beats) % _SMALL])
            beats.append(Beat(due, began, clock()))
            due = max(due + step, clock())


class Giants:
    """The thread that records them, or does something else with their values: this one."""

    def __init__(self, ways: dict[str, Callable[[TracePayload], None]]) -> None:
        self._ways = ways
        self.phases: list[Phase] = []

    def run(self, way: str, payload: TracePayload, count: int) -> None:
        """So many, each after a rest and until it has been sent."""
        import spanferry

        clock = time.perf_counter_ns
        if way == ALONE:
            began = clock()
            time.sleep(_ALONE_S)
            self.phases.append(Phase(RECORDED, began, clock()))
            return
        for _ in range(count):
            time.sleep(_REST_S)
            began = clock()
            self._ways[way](payload)
            recorded = clock()
            self.phases.append(Phase(RECORDED, began, recorded))
            if way == "json":
                continue
            until_s = time.monotonic() + _SENT_WITHIN_S
            while spanferry.stats().buffered_bytes > 2**20:
                if time.monotonic() > until_s:
                    raise RuntimeError("a giant was not sent within a minute")
                time.sleep(_LOOK_S)
            self.phases.append(Phase(SENT, recorded, clock()))


def measure(plan: Plan) -> list[Seen]:
    """All rounds, in this process, which is good for nothing else then."""
    import mlflow

    import spanferry

    enable_spanferry(plan.addresses, buffer_bytes=BUFFER_BYTES)
    small = spans(spanferry.start_span)["with"]
    ways = {
        "json": json.dumps,
        "spanferry": spans(spanferry.start_span)["with"],
        "bridge": spans(mlflow.start_span)["with"],
    }
    payloads = {megabytes: giant(megabytes) for megabytes in plan.giants}
    for warm_up in (small, *list(ways.values())[1:]):
        warm_up(make_payload("chat", 10_000, 1))
    spanferry.flush(30)
    gc.collect()
    gc.freeze()
    seen: list[Seen] = []
    for number in range(plan.rounds):
        for megabytes, count in plan.giants.items():
            names = [ALONE, *ways]
            turn = number % len(names)
            for way in names[turn:] + names[:turn]:
                print(f"round {number + 1}: {megabytes} MB, {way}", file=sys.stderr)
                neighbours, giants = Neighbours(small), Giants(ways)
                neighbours.start()
                giants.run(way, payloads[megabytes], count)
                seen.append(seen_of(way, megabytes, number, neighbours.stop(), giants.phases))
    lost = spanferry.stats().traces_dropped
    if lost:
        raise RuntimeError(f"{lost} traces were dropped")
    return seen


def seen_of(way: str, megabytes: int, number: int, beats: list[Beat], phases: list[Phase]) -> Seen:
    lengths = {
        name: [(one.ended - one.began) / 1e6 for one in phases if one.name == name]
        for name in (RECORDED, SENT)
    }
    found = Seen(
        way=way,
        megabytes=megabytes,
        round=number,
        inside_us={RECORDED: [], SENT: []},
        late_us={RECORDED: [], SENT: []},
        record_ms=lengths[RECORDED],
        send_ms=lengths[SENT],
    )
    for name in (RECORDED, SENT):
        spans_of = [one for one in phases if one.name == name]
        for beat in beats:
            if any(beat.due < one.ended and beat.ended > one.began for one in spans_of):
                found.inside_us[name].append((beat.ended - beat.began) / 1000)
                found.late_us[name].append(max(0, beat.began - beat.due) / 1000)
    return found


def giant(megabytes: int, of: int = 10) -> TracePayload:
    """Documents, rows and a context of `of` megabytes, as often as makes `megabytes`."""
    times = max(1, megabytes // of)
    made = make_payload("chat", of * 1_000_000, seed=1)
    messages: list[dict[str, Any]] = made.chat_model[0]["messages"]
    messages[1]["content"] *= times
    return made._replace(
        retriever=(made.retriever[0], made.retriever[1] * times),
        tool=(made.tool[0], made.tool[1] * times),
    )


def _child(plan: Plan) -> list[Seen]:
    """Measure in a process with nothing else in it, and no options but our own."""
    prefixes = ("OTEL_", "MLFLOW_", "SPANFERRY_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.neighbours", "--child"],
        cwd=_ROOT,
        env=environment,
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the measured process ended with {done.returncode}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Seen])


def main(arguments: list[str] | None = None) -> int:
    """Run, print the section, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of few giants")
    parser.add_argument("--rounds", type=int, help="instead of 5")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/neighbours.json)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
        print(msgspec.json.encode(measure(plan)).decode())
        return 0
    where = conditions("orjson")
    with KafkaServer(for_load=True) as kafka:
        topic = kafka.create_topic("neighbours", PARTITIONS)
        plan = Plan(Addresses(kafka.bootstrap_servers, topic, ""))
        if given.quick:
            plan.rounds, plan.giants = 1, {10: 10, 100: 1}
        plan.rounds = given.rounds or plan.rounds
        seen = _child(plan)
    report = Report(
        conditions=where,
        quick=given.quick,
        threads=THREADS,
        rate=RATE,
        buffer_bytes=BUFFER_BYTES,
        giant_bytes=GIANT_BYTES,
        rows=make_rows(seen),
    )
    out = given.out or (RESULTS.with_name("last.tmp.json") if given.quick else RESULTS)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print(section(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
