"""What a worker takes in memory while ten times more is produced than its store takes.

    python -m benchmarks.overload                 10 minutes; every kind of traffic at once
    python -m benchmarks.overload --slow          the same with a store that takes a few traces a second
    python -m benchmarks.overload --seconds 60    shorter; figures not to be quoted
    python -m benchmarks.overload --traffic tiny  one kind: chat, tiny, open, giants or mixed
    python -m benchmarks.overload --limit-mb 400  another `process.memory_bytes_max`

Method. A real Kafka, a real worker process with its defaults, and SQLite, which takes so little that ten
times as much can be produced beside it on a small machine; with --slow through MLflow's own methods, which
take less still. The producer looks every two seconds at what was stored and sends about ten times that
rate. The worker's resident memory is read from /proc twice a second.

Results go to benchmarks/results/overload-worker.json; what they mean stands in docs/operations.md.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.machine import Conditions, conditions
from spanferry_schemas import (
    End,
    RecordKind,
    RecordMeta,
    Span,
    StatusCode,
    TracePart,
    encode_fragment,
    encode_span,
    write_meta,
)
from spanferry_worker.settings import Settings
from tests.services.kafka import KafkaServer
from tests.services.mlflow_tables import copy_tables
from tests.services.worker import SpanferryWorker

__all__ = [
    "LIMIT_BYTES",
    "PARTITIONS",
    "TRAFFIC",
    "Figures",
    "Load",
    "Traffic",
    "measure",
    "numbered",
    "random_span",
    "resident_mb",
    "round_all",
]

RESULTS = Path(__file__).parent / "results" / "overload-worker.json"
PARTITIONS = 6
LIMIT_BYTES = Settings().memory_bytes_max
"""What a worker keeps to by default."""
TIMES = 12
"""Of the rate at which was stored lately; over a run it comes to ten, because it follows."""
RATE_MIN, RATE_MAX = 50.0, 6_000.0
"""Traces a second: what the producer begins with, and what it can do beside a worker."""

Trace = tuple[bytes, list[bytes]]
"""Its id, and the values of its records in order."""


class Figures(msgspec.Struct, kw_only=True):
    """One run. Megabytes are 10**6 bytes; rates are traces a second over the whole run."""

    traffic: str
    bulk: bool
    seconds: float
    limit_mb: float
    """`process.memory_bytes_max`."""
    idle_mb: float
    """Resident memory of the worker before it reads anything."""
    peak_mb: float = 0.0
    end_mb: float = 0.0
    peaks_mb: list[float] = []
    """Of each minute."""
    held_peak_mb: float = 0.0
    """The most that the worker itself said it holds."""
    produced_per_s: float = 0.0
    stored_per_s: float = 0.0
    times: float = 0.0
    """Produced, for each that was stored."""
    paused_share: float = 0.0
    """Part of the looks at which intake stood."""
    cut: int = 0
    written_early: int = 0
    dead: int = 0

    @property
    def beyond_mb(self) -> float:
        """Peak less the limit: promised is 150 at most."""
        return self.peak_mb - self.limit_mb


class Report(msgspec.Struct):
    """What the results' file holds."""

    conditions: Conditions
    figures: list[Figures]


def _span(index: int, attributes: int, value_bytes: int) -> bytes:
    return random_span(index, [f"app.value_{n}" for n in range(attributes)], value_bytes)


def random_span(index: int, names: Sequence[str], value_bytes: int) -> bytes:
    """One encoded, with a value of so many characters under each name."""
    value = os.urandom(value_bytes // 2).hex().encode()
    return encode_span(
        Span(
            span_id=os.urandom(8),
            parent_id=None,
            name=f"step {index}",
            span_type="CHAIN",
            start_ns=time.time_ns(),
            end_ns=time.time_ns() + 5_000_000,
            status=StatusCode.OK,
            attributes=dict.fromkeys(names, b'"' + value + b'"'),
        )
    )


PART = TracePart(experiment="overload", tags={"kind": "overload"})


class Traffic:
    """Makes traces; spans are made beforehand, so that ten times the store's rate costs little."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._chat = [[_span(i, 2, 1_000) for i in range(5)] for _ in range(32)]
        self._tiny = [[_span(i, 4, 2) for i in range(60)] for _ in range(32)]
        self._big = [[_span(i, 1, 10_000) for i in range(30)] for _ in range(8)]

    def chat(self) -> Trace:
        """5 spans, 10 KB, in one record."""
        return self._whole(self._chance.choice(self._chat))

    def tiny(self) -> Trace:
        """60 spans with 4 tiny attributes each: as objects twelve times their bytes."""
        return self._whole(self._chance.choice(self._tiny))

    def open(self) -> Trace:
        """One span of a trace that never ends."""
        trace_id = os.urandom(16)
        return trace_id, [encode_fragment(trace_id, self._chance.choice(self._tiny)[:1], PART)]

    def giants(self) -> Trace:
        """3 MB in records of 300 KB, of which the last never comes."""
        trace_id = os.urandom(16)
        values: list[bytes] = []
        for _ in range(10):
            spans = [_renamed(each) for each in self._chance.choice(self._big)]
            values.append(encode_fragment(trace_id, spans, PART))
        return trace_id, values

    def mixed(self) -> Trace:
        """Of everything."""
        at = self._chance.random()
        if at < 0.002:
            return self.giants()
        return self.chat() if at < 0.5 else self.tiny() if at < 0.9 else self.open()

    @staticmethod
    def _whole(spans: Sequence[bytes]) -> Trace:
        trace_id = os.urandom(16)
        return trace_id, [encode_fragment(trace_id, list(spans), PART, End(len(spans)))]


def _renamed(span: bytes) -> bytes:
    """The span under another id, which stands after the first three bytes."""
    return span[:3] + os.urandom(8) + span[11:]


TRAFFIC = ("chat", "tiny", "open", "giants", "mixed")


class Load:
    """Sends traces at a rate that may be changed at any time."""

    def __init__(self, bootstrap_servers: str, topic: str, traffic: str) -> None:
        self._topic = topic
        self._make = getattr(Traffic(random.Random(7)), traffic)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers,
            compression_type="zstd",
            linger_ms=20,
            max_batch_size=512 * 1024,
            max_request_size=4 * 1024 * 1024,
        )
        self._headers = numbered()
        self.rate = RATE_MIN
        self.sent = 0

    async def run(self) -> None:
        """Until cancelled. What cannot be sent within two seconds is not made up for."""
        await self._producer.start()
        try:
            due = time.monotonic()
            while True:
                trace_id, values = self._make()
                for value in values:
                    await self._producer.send(
                        self._topic, value, key=trace_id, headers=[next(self._headers)]
                    )
                self.sent += 1
                due = max(due + 1 / self.rate, time.monotonic() - 2.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await self._producer.stop()


def numbered() -> Iterator[tuple[str, bytes]]:
    """The headers of a producer's records."""
    producer_id = os.urandom(8)
    for sequence in count():
        yield write_meta(RecordMeta(producer_id, sequence, RecordKind.FRAGMENT))


def resident_mb(pid: int) -> float:
    """What a process takes of the machine's memory, shared libraries included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _watch(worker: SpanferryWorker, load: Load, seconds: float, into: Figures) -> None:
    """Look twice a second; keep the load at ten times what is stored."""
    began = time.monotonic()
    paused = looks = 0
    before, at = 0.0, began
    while time.monotonic() < began + seconds:
        await asyncio.sleep(0.5)
        into.end_mb = resident_mb(worker.pid)
        into.peak_mb = max(into.peak_mb, into.end_mb)
        minute = int((time.monotonic() - began) / 60)
        into.peaks_mb += [0.0] * (minute + 1 - len(into.peaks_mb))
        into.peaks_mb[minute] = max(into.peaks_mb[minute], round(into.end_mb))
        metrics = await asyncio.to_thread(worker.metrics)
        looks += 1
        paused += metrics["spanferry_consume_paused"] > 0
        into.held_peak_mb = max(into.held_peak_mb, metrics["spanferry_consume_held_bytes"] / 1e6)
        stored = metrics["spanferry_write_traces_total"]
        if time.monotonic() - at >= 2:
            rate = (stored - before) / (time.monotonic() - at)
            load.rate = min(RATE_MAX, max(RATE_MIN, TIMES * rate))
            before, at = stored, time.monotonic()
    into.seconds = time.monotonic() - began
    into.produced_per_s = load.sent / into.seconds
    into.stored_per_s = stored / into.seconds
    into.times = load.sent / max(1.0, stored)
    into.paused_share = paused / looks
    into.cut = int(metrics["spanferry_assemble_cut_total"])
    early = 'spanferry_assemble_finished_total{reason="memory"}'
    into.written_early = int(metrics.get(early, 0))
    into.dead = int(
        sum(v for name, v in metrics.items() if name.startswith("spanferry_dead_letters_total"))
    )


def measure(
    kafka: KafkaServer,
    tracking_uri: str,
    *,
    traffic: str,
    seconds: float,
    limit_bytes: int = LIMIT_BYTES,
    bulk: bool = True,
) -> Figures:
    """Run a worker under overload: its figures. `limit_bytes`: what it keeps to."""
    topic = kafka.create_topic(f"overload-{os.urandom(4).hex()}", PARTITIONS)
    options = [f"--set=mlflow.bulk={str(bulk).lower()}"]
    if limit_bytes != LIMIT_BYTES:
        options.append(f"--set=process.memory_bytes_max={limit_bytes}")
    worker = SpanferryWorker(
        bootstrap_servers=kafka.bootstrap_servers,
        topic=topic,
        tracking_uri=tracking_uri,
        group=f"{topic}-group",
        options=tuple(options),
    )
    worker.start()
    figures = Figures(
        traffic=traffic,
        bulk=bulk,
        seconds=seconds,
        limit_mb=limit_bytes / 1e6,
        idle_mb=resident_mb(worker.pid),
    )

    async def run() -> None:
        load = Load(kafka.bootstrap_servers, topic, traffic)
        sending = asyncio.ensure_future(load.run())
        try:
            await _watch(worker, load, seconds, figures)
            assert not sending.done(), sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        if worker.running:
            worker.kill()  # there is nothing left to learn from a graceful end
        worker.close()
    round_all(figures)
    return figures


def _way(figures: Figures) -> tuple[str, bool, float]:
    """What makes two runs comparable: the later one replaces the earlier."""
    return figures.traffic, figures.bulk, figures.limit_mb


def round_all(figures: msgspec.Struct) -> None:
    """To two digits."""
    for field in msgspec.structs.fields(figures):
        value = getattr(figures, field.name)
        if isinstance(value, float):
            setattr(figures, field.name, round(value, 2))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--traffic", choices=TRAFFIC, default="mixed")
    parser.add_argument("--slow", action="store_true", help="mlflow.bulk off")
    parser.add_argument("--limit-mb", type=int, default=LIMIT_BYTES // 1_000_000)
    parser.add_argument("--no-results", action="store_true", help="print only")
    options = parser.parse_args()
    standard = parser.get_default("limit_mb")
    limit = LIMIT_BYTES if options.limit_mb == standard else options.limit_mb * 1_000_000
    machine = conditions("mlflow", "aiokafka")
    with tempfile.TemporaryDirectory() as folder, KafkaServer(for_load=True) as kafka:
        figures = measure(
            kafka,
            copy_tables(Path(folder) / "mlflow.db", str(Path(folder) / "artifacts")),
            traffic=options.traffic,
            seconds=options.seconds,
            limit_bytes=limit,
            bulk=not options.slow,
        )
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(figures)).decode() + "\n")
    sys.stdout.write(f"beyond the limit: {figures.beyond_mb:.0f} MB\n")
    if not options.no_results:
        kept: list[Figures] = []
        if RESULTS.exists():
            earlier = msgspec.json.decode(RESULTS.read_bytes(), type=Report).figures
            kept = [e for e in earlier if _way(e) != _way(figures)]
        report = Report(machine, [*kept, figures])
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
