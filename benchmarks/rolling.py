"""What restarting all workers of a group one after another costs, under load.

    python -m benchmarks.rolling             three workers, members by name and without: about 4 minutes
    python -m benchmarks.rolling --rate 300  traces a second, of 5 spans and 10 KB; 150 otherwise

Method. A real Kafka, a real PostgreSQL, three real workers with their defaults. A producer sends at a steady
rate; after a while each worker in turn gets SIGTERM, and another starts in its place once it has ended. Five
times a second the workers' own counts are read. A gap is a time in which none of them has read a record,
lag is what was sent less what was read. Static members have a name each (`kafka.group_instance_id`), so
the group waits for them instead of dealing out their partitions.

Results go to benchmarks/results/rolling.json; what they mean stands in docs/operations.md.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import time
from pathlib import Path

import httpx
import msgspec
import psycopg

from benchmarks.machine import Conditions, conditions
from benchmarks.overload import PARTITIONS, Load
from tests.services.kafka import KafkaServer
from tests.services.postgres import PostgresServer
from tests.services.worker import SpanferryWorker

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results" / "rolling.json"
WORKERS = 3
LOOK_S = 0.2
STEADY_S = 10.0
CAUGHT_UP = 100
"""Records that may wait where it is caught up: what the producer sends in a moment."""


class Figures(msgspec.Struct, kw_only=True):
    """One run: seconds, and records (of one trace each)."""

    membership: str
    rate: float
    restart_s: float
    """From the first SIGTERM until the last worker was ready again."""
    gap_longest_s: float
    lag_before: int
    lag_peak: int
    recovery_s: float | None
    """From the last worker's being ready until lag was what it was; None: never within a minute."""
    sent: int
    stored: int
    """Rows of traces in the database at the end: equal to `sent` where none is lost and none is double."""


class Report(msgspec.Struct):
    """What the results' file holds."""

    conditions: Conditions
    figures: list[Figures]


class _Group:
    """The workers, and what all that ever lived have counted."""

    def __init__(self, kafka: KafkaServer, uri: str, topic: str, *, static: bool) -> None:
        self._options = {
            "bootstrap_servers": kafka.bootstrap_servers,
            "topic": topic,
            "tracking_uri": uri,
            "group": f"{topic}-group",
        }
        self._static = static
        self.workers = [self._make(number) for number in range(WORKERS)]
        self._last: dict[SpanferryWorker, int] = {}

    def _make(self, number: int) -> SpanferryWorker:
        named = (f"--group-instance-id=worker-{number}",) if self._static else ()
        return SpanferryWorker(**self._options, options=named)

    def restart(self, number: int) -> None:
        """SIGTERM, its end, and another one that is ready."""
        self.workers[number].stop()
        self.workers[number] = self._make(number)
        self.workers[number].start()

    def read(self) -> int:
        """Records read by all, the ended ones included (as of our last look at each)."""
        for worker in self.workers:
            with contextlib.suppress(httpx.TransportError):  # it starts, or ends
                self._last[worker] = int(worker.metrics()["spanferry_consume_records_total"])
        return sum(self._last.values())


async def _run(kafka: KafkaServer, uri: str, membership: str, rate: float) -> Figures:
    topic = kafka.create_topic(f"rolling-{os.urandom(4).hex()}", PARTITIONS)
    group = _Group(kafka, uri, topic, static=membership == "static")
    for worker in group.workers:  # the first makes the database's tables
        await asyncio.to_thread(worker.start)
    load = Load(kafka.bootstrap_servers, topic, "chat")
    load.rate = rate
    looks: list[tuple[float, int, int]] = []
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            read = await asyncio.to_thread(group.read)
            looks.append((time.monotonic(), load.sent, read))
            await asyncio.sleep(LOOK_S)

    sending, looking = asyncio.ensure_future(load.run()), asyncio.ensure_future(look())
    await asyncio.sleep(STEADY_S)
    began = time.monotonic()
    for number in range(WORKERS):
        await asyncio.to_thread(group.restart, number)
        await asyncio.sleep(2)
    ended = time.monotonic() - 2
    lag_before = max(0, *(sent - read for at, sent, read in looks if began - 5 < at < began))
    recovery = await _recovery_s(looks, ended, max(lag_before, CAUGHT_UP))
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    stored = await _stored(uri, load.sent)
    done.set()
    await looking
    for worker in group.workers:
        await asyncio.to_thread(worker.close)
    gaps = _gaps([(at, read) for at, _, read in looks if began <= at <= ended + (recovery or 60)])
    return Figures(
        membership=membership,
        rate=rate,
        restart_s=round(ended - began, 1),
        gap_longest_s=round(max(gaps), 1),
        lag_before=lag_before,
        lag_peak=max(sent - read for at, sent, read in looks if at >= began),
        recovery_s=recovery,
        sent=load.sent,
        stored=stored,
    )


async def _recovery_s(
    looks: list[tuple[float, int, int]], ended: float, lag_max: int
) -> float | None:
    while time.monotonic() < ended + 60:
        _, sent, read = looks[-1]
        if sent - read <= lag_max:
            return round(max(0.0, time.monotonic() - ended), 1)
        await asyncio.sleep(LOOK_S)
    return None


async def _stored(uri: str, wanted: int) -> int:
    """How many traces are stored: once it is as many as wanted, or after a minute."""
    end = time.monotonic() + 60
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as connection:
        while True:
            counted = connection.execute("SELECT count(*) FROM trace_info").fetchone()
            stored = int(counted[0]) if counted else 0
            if stored >= wanted or time.monotonic() > end:
                return stored
            await asyncio.sleep(1)


def _gaps(reads: list[tuple[float, int]]) -> list[float]:
    """How long it was, each time, from one record to the next, as far as our looks tell."""
    gaps = [0.0]
    since = reads[0][0]
    for (_, before), (at, read) in itertools.pairwise(reads):
        if read > before:
            gaps.append(at - since)
            since = at
    return gaps


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--no-results", action="store_true", help="print only")
    options = parser.parse_args()
    machine = conditions("mlflow", "aiokafka")
    figures: list[Figures] = []
    with KafkaServer() as kafka, PostgresServer(durable=True) as postgres:
        for membership in ("dynamic", "static"):
            uri = postgres.new_database()
            figures.append(asyncio.run(_run(kafka, uri, membership, options.rate)))
            sys.stdout.write(msgspec.json.encode(figures[-1]).decode() + "\n")
            sys.stdout.flush()
    if not options.no_results:
        report = msgspec.json.encode(Report(machine, figures))
        RESULTS.write_bytes(msgspec.json.format(report) + b"\n")


if __name__ == "__main__":
    main()
