"""What a worker's other traces wait for while one of them is huge, or a crowd of them does not end.

    python -m benchmarks.crowds                 all of them, two minutes each
    python -m benchmarks.crowds --kind giant    one kind: giant, wide or crowd
    python -m benchmarks.crowds --no-results    print only

Method. A real Kafka, a real PostgreSQL and a real worker with its defaults, a new one for each kind.
Neighbours are traces of 5 spans and 10 KB, 20 a second. After a while of only these, the other traffic comes
as fast as Kafka takes it while neighbours go on: a trace of 200 MB in 500 spans; one of 50,000 spans;
100,000 traces of one span that do not end. Delays are the worker's own, from the newest record of a trace to
its being stored (`spanferry_write_delay_seconds`): p50 and p99 by interpolation in its buckets, of all that
was stored in that time, the giant included. Memory is read from /proc four times a second.

Results go to benchmarks/results/crowds.json and, by `python docs/generate.py`, to docs/operations.md.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.machine import Conditions, conditions
from benchmarks.overload import (
    LIMIT_BYTES,
    PARTITIONS,
    Traffic,
    numbered,
    random_span,
    resident_mb,
    round_all,
)
from spanferry_schemas import End, TracePart, encode_fragment
from tests.services.kafka import KafkaServer
from tests.services.postgres import PostgresServer
from tests.services.worker import SpanferryWorker

__all__ = ["KINDS", "RESULTS", "Delays", "Figures", "Report", "quantile"]

RESULTS = Path(__file__).parent / "results" / "crowds.json"
KINDS = ("giant", "wide", "crowd")
NEIGHBOURS_PER_S = 20.0
QUIET_S, BESIDE_S = 30.0, 60.0
_WARM_S = 5.0
_PART = TracePart(experiment="crowds")
_DELAYS = 'spanferry_write_delay_seconds_bucket{le="'
_HELD = "spanferry_consume_held_bytes"
_OPEN = "spanferry_assemble_open_traces"


class Delays(msgspec.Struct, kw_only=True):
    """Of traces stored in a time, in seconds."""

    traces: int
    p50_s: float
    p99_s: float


class Figures(msgspec.Struct, kw_only=True):
    """One kind. Megabytes are 10**6 bytes."""

    kind: str
    records: int
    """Of what comes beside the neighbours."""
    megabytes: float
    sent_in_s: float
    quiet: Delays
    beside: Delays
    limit_mb: float
    """`process.memory_bytes_max`."""
    idle_mb: float
    peak_mb: float = 0.0
    held_peak_mb: float = 0.0
    open_peak: int = 0
    """Traces that were open at once."""
    cut: int = 0
    """Traces of which payloads were cut."""
    written_early: int = 0
    """Traces stored as they stood, to be completed later."""
    dead: int = 0
    paused_looks: float = 0.0
    """Part of the looks at which intake stood."""


class Report(msgspec.Struct):
    """What the results' file holds."""

    conditions: Conditions
    figures: list[Figures]


def quantile(buckets: dict[float, float], part: float) -> float:
    """Of a histogram: counts up to each upper bound, as Prometheus has them; linear within one."""
    bounds = sorted(buckets)
    wanted = buckets[bounds[-1]] * part
    below, counted = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted and buckets[bound] > counted:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (wanted - counted) / (buckets[bound] - counted)
        below, counted = bound, buckets[bound]
    return below


def _buckets(metrics: dict[str, float]) -> dict[float, float]:
    return {
        float(name[len(_DELAYS) : -2]): value
        for name, value in metrics.items()
        if name.startswith(_DELAYS)
    }


def _delays(before: dict[str, float], after: dict[str, float]) -> Delays:
    first, last = _buckets(before), _buckets(after)
    grown = {bound: last[bound] - first[bound] for bound in last}
    return Delays(
        traces=int(grown[float("inf")]),
        p50_s=round(quantile(grown, 0.5), 3),
        p99_s=round(quantile(grown, 0.99), 3),
    )


def _spans(count: int, payload: int) -> Iterator[bytes]:
    return (random_span(index, ["mlflow.spanInputs"], payload) for index in range(count))


def _records(kind: str) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of what comes beside the neighbours."""
    if kind == "crowd":
        for _ in range(100_000):
            trace_id = os.urandom(16)
            yield trace_id, encode_fragment(trace_id, list(_spans(1, 100)), _PART)
        return
    count, payload, together = (500, 400_000, 2) if kind == "giant" else (50_000, 100, 500)
    trace_id = os.urandom(16)
    some: list[bytes] = []
    for span in _spans(count, payload):
        some.append(span)
        if len(some) == together:
            yield trace_id, encode_fragment(trace_id, some, _PART)
            some = []
    yield trace_id, encode_fragment(trace_id, [], _PART, End(count))


class _Run:
    """A worker, its neighbours and the looks at it."""

    def __init__(self, worker: SpanferryWorker, producer: AIOKafkaProducer, topic: str) -> None:
        self._worker = worker
        self._producer = producer
        self._topic = topic
        self._headers = numbered()
        self.metrics: dict[str, float] = {}

    async def send(self, key: bytes, value: bytes) -> None:
        """Waits only where the client's buffer is full."""
        await self._producer.send(self._topic, value, key=key, headers=[next(self._headers)])

    async def neighbours(self) -> None:
        """Until cancelled."""
        traffic = Traffic(random.Random(3))
        while True:
            trace_id, values = traffic.chat()
            for value in values:
                await self.send(trace_id, value)
            await asyncio.sleep(1 / NEIGHBOURS_PER_S)

    async def heavy(self, kind: str, into: Figures) -> None:
        """As fast as it goes."""
        began = time.monotonic()
        for key, value in _records(kind):
            await self.send(key, value)
            into.records += 1
            into.megabytes += len(value) / 1e6
            await asyncio.sleep(0)
        await self._producer.flush()
        into.sent_in_s = time.monotonic() - began

    async def watch(self, seconds: float, into: Figures) -> None:
        """Look four times a second."""
        looks = paused = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.25)
            into.peak_mb = max(into.peak_mb, resident_mb(self._worker.pid))
            self.metrics = await asyncio.to_thread(self._worker.metrics)
            looks += 1
            paused += self.metrics["spanferry_consume_paused"] > 0
            into.held_peak_mb = max(into.held_peak_mb, self.metrics[_HELD] / 1e6)
            into.open_peak = max(into.open_peak, int(self.metrics[_OPEN]))
        into.paused_looks = paused / looks


async def _measure(run: _Run, kind: str, into: Figures) -> None:
    sending = asyncio.ensure_future(run.neighbours())
    try:
        await run.watch(_WARM_S, into)
        before = run.metrics
        await run.watch(QUIET_S, into)
        between = run.metrics
        into.quiet = _delays(before, between)
        heavy = asyncio.ensure_future(run.heavy(kind, into))
        await run.watch(BESIDE_S, into)
        await heavy
        into.beside = _delays(between, run.metrics)
        assert not sending.done(), sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    into.cut = int(run.metrics["spanferry_assemble_cut_total"])
    early = 'spanferry_assemble_finished_total{reason="memory"}'
    into.written_early = int(run.metrics.get(early, 0))
    dead = "spanferry_dead_letters_total"
    into.dead = int(sum(v for name, v in run.metrics.items() if name.startswith(dead)))


async def _with_producer(worker: SpanferryWorker, topic: str, servers: str, into: Figures) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        compression_type="zstd",
        linger_ms=20,
        max_batch_size=512 * 1024,
        max_request_size=4 * 1024 * 1024,
    )
    await producer.start()
    try:
        await _measure(_Run(worker, producer, topic), into.kind, into)
    finally:
        await producer.stop()


def measure(kafka: KafkaServer, tracking_uri: str, kind: str) -> Figures:
    """One kind, beside a worker of its own."""
    topic = kafka.create_topic(f"crowds-{kind}-{os.urandom(4).hex()}", PARTITIONS)
    worker = SpanferryWorker(
        bootstrap_servers=kafka.bootstrap_servers,
        topic=topic,
        tracking_uri=tracking_uri,
        group=f"{topic}-group",
    )
    worker.start()
    nothing = Delays(traces=0, p50_s=0.0, p99_s=0.0)
    figures = Figures(
        kind=kind,
        records=0,
        megabytes=0.0,
        sent_in_s=0.0,
        quiet=nothing,
        beside=nothing,
        limit_mb=LIMIT_BYTES / 1e6,
        idle_mb=resident_mb(worker.pid),
    )
    try:
        asyncio.run(_with_producer(worker, topic, kafka.bootstrap_servers, figures))
    finally:
        if worker.running:
            worker.kill()  # there is nothing left to learn from a graceful end
        worker.close()
    round_all(figures)
    return figures


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--no-results", action="store_true", help="print only")
    options = parser.parse_args()
    report = Report(conditions("mlflow", "aiokafka"), [])
    with KafkaServer(for_load=True) as kafka, PostgresServer() as postgres:
        for kind in options.kind or KINDS:
            figures = measure(kafka, postgres.new_database(), kind)
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(figures)).decode() + "\n")
            report.figures.append(figures)
    if not options.no_results:
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
