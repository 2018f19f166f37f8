"""What restarting all workers of a group one after another costs, under load.

    python -m benchmarks.rolling             three workers, members by name and without: about 6 minutes
    python -m benchmarks.rolling --rate 300  traces a second, of 5 spans and 10 KB; 100 otherwise

Method. A real Kafka, a real PostgreSQL, three real workers with their defaults. A producer sends at a
steady rate, and judges every tenth trace; after a while each worker in turn gets SIGTERM, another starts in
its place once it has ended, and the next one's turn comes once lag is what it was before. Lag is what lies
in Kafka less what the group has committed, both asked of Kafka four times a second: it counts what is not
durable yet, and neither a restart nor a record that is read twice can bend it. A partition stands while its
committed offset does not move. At the end traces, spans and assessments are counted in the database. Static
members have a name each (`kafka.group_instance_id`), so the group waits for them instead of dealing out
their partitions.

Results go to benchmarks/results/rolling.json and, by `python -m benchmarks.rolling_document`, to
docs/operations.md.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from benchmarks.machine import conditions
from benchmarks.overload import PARTITIONS, Traffic
from benchmarks.rolling_report import (
    RESULTS,
    SPANS,
    WORKERS,
    Figures,
    Look,
    Report,
    Restart,
    Stored,
    longest_stand_s,
    recovery_s,
)
from spanferry_schemas import (
    Assessment,
    AssessmentKind,
    RecordKind,
    RecordMeta,
    encode,
    write_meta,
)
from tests.services.kafka import KafkaServer
from tests.services.postgres import PostgresServer
from tests.services.worker import SpanferryWorker

__all__ = ["main"]

JUDGED = 10
"""Every so many traces one is."""
LOOK_S = 0.25
STEADY_S = 20.0
GIVEN_UP_S = 60.0
EARLY = ("starting", "waits for store")
"""What /readyz says first."""
BETWEEN_S = 5.0


class _Load:
    """Sends whole traces at a steady rate, every tenth with feedback, until told to stop."""

    def __init__(self, bootstrap_servers: str, topic: str, rate: float) -> None:
        self._topic = topic
        self._rate = rate
        self._traffic = Traffic(random.Random(7))
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers, compression_type="zstd", linger_ms=20
        )
        self._producer_id = os.urandom(8)
        self._records = 0
        self.traces = 0
        self.judged = 0
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """What cannot be sent within two seconds is not made up for. All that was sent is acknowledged."""
        await self._producer.start()
        try:
            due = time.monotonic()
            while not self.stop.is_set():
                trace_id, values = self._traffic.chat()
                for value in values:
                    await self._send(trace_id, value, RecordKind.FRAGMENT)
                self.traces += 1
                if self.traces % JUDGED == 0:
                    await self._send(trace_id, _judgement(trace_id), RecordKind.ASSESSMENT)
                    self.judged += 1
                due = max(due + 1 / self._rate, time.monotonic() - 2.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await self._producer.stop()

    async def _send(self, trace_id: bytes, value: bytes, kind: RecordKind) -> None:
        header = write_meta(RecordMeta(self._producer_id, self._records, kind))
        self._records += 1
        await self._producer.send(self._topic, value, key=trace_id, headers=[header])


def _judgement(trace_id: bytes) -> bytes:
    return encode(
        Assessment(
            assessment_id=f"a-{os.urandom(16).hex()}",
            kind=AssessmentKind.FEEDBACK,
            name="good",
            value=b"true",
            created_ns=time.time_ns(),
            trace_id=trace_id,
        )
    )


class _Watch:
    """Asks Kafka what lies there and what the group has committed, again and again."""

    def __init__(self, bootstrap_servers: str, topic: str, group: str) -> None:
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._group = group
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers)
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
        self.looks: list[Look] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look meanwhile."""
        await self._consumer.start()
        await self._admin.start()
        looking = asyncio.ensure_future(self._run())
        try:
            yield
            assert not looking.done(), looking
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await self._admin.close()
            await self._consumer.stop()

    async def _run(self) -> None:
        while True:
            ends = await self._consumer.end_offsets(self._partitions)
            found = await self._admin.list_consumer_group_offsets(self._group)
            committed = [max(0, found[one].offset) if one in found else 0 for one in ends]
            self.looks.append(Look(time.monotonic(), list(ends.values()), committed))
            await asyncio.sleep(LOOK_S)

    async def recovered_s(self, ready: float, lag_max: int) -> float | None:
        """Wait for it."""
        while time.monotonic() < ready + GIVEN_UP_S:
            found = recovery_s(self.looks, ready, lag_max)
            if found is not None:
                return found
            await asyncio.sleep(LOOK_S)
        return None

    def peak(self, begin: float) -> int:
        """The most that was not committed since then."""
        return max(look.lag for look in self.looks if look.at >= begin)


async def _restart(old: SpanferryWorker, new: SpanferryWorker) -> Restart:
    """SIGTERM, the end, and another one that is ready. What lag did is not known yet."""
    began = time.monotonic()
    await asyncio.to_thread(old.stop)
    ended = time.monotonic()
    await asyncio.to_thread(new.start, ready=False)
    up = time.monotonic()
    await asyncio.to_thread(_wait_for_store, new)
    opened = time.monotonic()
    await asyncio.to_thread(new.wait)
    return Restart(
        stop_s=ended - began,
        boot_s=up - ended,
        store_s=opened - up,
        join_s=time.monotonic() - opened,
        lag_peak=0,
        recovery_s=None,
    )


def _wait_for_store(worker: SpanferryWorker) -> None:
    """Until it waits for something else, or is ready."""
    page = f"http://127.0.0.1:{worker.health_port}/readyz"
    while worker.running:
        with contextlib.suppress(httpx.TransportError):  # it may be too busy with its imports
            answer = httpx.get(page, timeout=5, trust_env=False)
            if answer.is_success or not answer.json()["problem"].startswith(EARLY):
                return
        time.sleep(0.05)


async def _run(kafka: KafkaServer, uri: str, membership: str, rate: float) -> Figures:
    topic = kafka.create_topic(f"rolling-{os.urandom(4).hex()}", PARTITIONS)
    group = f"{topic}-group"

    def make(number: int) -> SpanferryWorker:
        named = (f"--group-instance-id=worker-{number}",) if membership == "static" else ()
        return SpanferryWorker(
            bootstrap_servers=kafka.bootstrap_servers,
            topic=topic,
            tracking_uri=uri,
            group=group,
            options=named,
        )

    workers = [make(number) for number in range(WORKERS)]
    for worker in workers:  # the first makes the database's tables
        await asyncio.to_thread(worker.start)
    load = _Load(kafka.bootstrap_servers, topic, rate)
    watch = _Watch(kafka.bootstrap_servers, topic, group)
    restarts: list[Restart] = []
    async with watch.running():
        sending = asyncio.ensure_future(load.run())
        await asyncio.sleep(BETWEEN_S + STEADY_S)
        began = time.monotonic()
        lag_before = watch.peak(began - STEADY_S)
        for number, worker in enumerate(workers):
            start = time.monotonic()
            workers[number] = make(number)
            restarts.append(one := await _restart(worker, workers[number]))
            one.recovery_s = await watch.recovered_s(time.monotonic(), lag_before)
            one.lag_peak = watch.peak(start)
            await asyncio.to_thread(worker.close)
            await asyncio.sleep(BETWEEN_S)
        load.stop.set()
        await sending
        ended = time.monotonic()
        stored = await asyncio.to_thread(_stored, uri, load)
    for worker in workers:
        await asyncio.to_thread(worker.close)
    return _rounded(
        Figures(
            membership=membership,
            rate=rate,
            lag_before=lag_before,
            stand_before_s=longest_stand_s(watch.looks, began - STEADY_S, began),
            stand_s=longest_stand_s(watch.looks, began, ended),
            restarts=restarts,
            traces=load.traces,
            judged=load.judged,
            stored=stored,
        )
    )


def _rounded(figures: Figures) -> Figures:
    def to_tenths(value: object) -> object:
        return round(value, 1) if isinstance(value, float) else value

    for one in (figures, *figures.restarts):
        for field in one.__struct_fields__:
            setattr(one, field, to_tenths(getattr(one, field)))
    return figures


def _stored(uri: str, load: _Load) -> Stored:
    """What is stored: three seconds after it is all that was sent, or after a minute."""
    end = time.monotonic() + 60
    wanted = (load.traces, load.traces * SPANS, load.judged)
    tables = ("trace_info", "spans", "assessments")
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as connection:

        def count(question: str) -> int:
            row = connection.execute(f"SELECT count(*) FROM {question}").fetchone()  # type: ignore[arg-type]
            return int(row[0]) if row else 0

        def is_short() -> bool:
            return any(count(name) < sent for name, sent in zip(tables, wanted, strict=True))

        while is_short() and time.monotonic() < end:
            time.sleep(1)
        time.sleep(3)  # what comes twice would come after
        grouped = f"SELECT trace_id FROM spans GROUP BY trace_id HAVING count(*) <> {SPANS}"
        traces, spans, assessments = (count(name) for name in tables)
        return Stored(
            traces=traces,
            spans=spans,
            assessments=assessments,
            uneven=count(f"({grouped}) AS uneven"),
        )


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--no-results", action="store_true", help="print only")
    options = parser.parse_args()
    machine = conditions("mlflow", "aiokafka")
    figures: list[Figures] = []
    with KafkaServer(for_load=True) as kafka, PostgresServer(durable=True) as postgres:
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
