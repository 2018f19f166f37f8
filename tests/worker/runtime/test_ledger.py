"""The ledger of a running worker, on doubles: written with each commit, in nobody's way."""

import asyncio
import itertools
import random

import pytest

from spanferry_schemas import End, RecordKind, RecordMeta, Report, encode, write_meta
from spanferry_worker.runtime import books
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.stages.accounts import Place, read_entry
from spanferry_worker.stages.statement import Row, Statement
from spanferry_worker.testing import MemoryLog
from tests.worker.events import fragment, number, span, whole
from tests.worker.runtime.harness import Harness, sample, until
from tests.worker.statements import statement_of

pytestmark = pytest.mark.both_loops

APP = b"app-0001"


class App:
    """Numbers its records by partition, as an app does."""

    def __init__(self, harness: Harness, producer_id: bytes = APP) -> None:
        self._broker = harness.broker
        self._producer_id = producer_id
        self._numbers = [itertools.count() for _ in harness.broker.partitions]
        self.records = 0

    def send(self, value: bytes, key: bytes, *, lost: bool = False) -> None:
        """`lost`: the record gets a number, and that is all."""
        partition = sum(key) % len(self._numbers)
        meta = RecordMeta(self._producer_id, next(self._numbers[partition]), RecordKind.FRAGMENT)
        self.records += 1
        if not lost:
            headers = [write_meta(meta)]
            self._broker.produce(value, key=key, headers=headers, partition=partition)


def statement(harness: Harness) -> Statement:
    """What `spanferry ledger` would say."""
    return statement_of(harness.broker, harness.ledger, harness.settings.kafka.group)


def row(harness: Harness, producer_id: bytes = APP) -> Row:
    return next(one for one in statement(harness).rows if one.producer_id == producer_id)


async def test_every_record_has_an_outcome():
    harness = Harness(partitions=1)
    harness.sink.poison = lambda trace: trace.trace_id == number(2)
    app = App(harness)
    app.send(encode(whole(1)), number(1))
    app.send(encode(whole(2)), number(2))
    app.send(b"\x01nonsense", number(3))
    app.send(encode(whole(4)), number(4), lost=True)
    app.send(encode(whole(5)), number(5))
    async with harness.running() as worker:
        await until(harness.all_committed)
        await until(lambda: sample(worker, "ledger_records_total", outcome="stored") == 2)
        assert sample(worker, "ledger_records_total", outcome="dead_lettered") == 2
    found = row(harness)
    assert (found.produced, found.stored, found.dead_lettered, found.missing) == (5, 2, 2, 1)
    assert found.places == {0: [(3, 3)]}
    assert not found.adds_up


async def test_what_a_policy_drops_is_sampled():
    harness = Harness(partitions=1, sample__rules=[{"name": "none", "action": "drop"}])
    App(harness).send(encode(whole(1)), number(1))
    async with harness.running():
        await until(harness.all_committed)
    assert harness.sink.stored == {}
    found = row(harness)
    assert (found.produced, found.sampled, found.adds_up) == (1, 1, True)


async def test_what_is_open_is_in_flight():
    harness = Harness(partitions=1, assemble__idle_s=60)
    app = App(harness)
    app.send(encode(fragment(1, [span(1)])), number(1))
    app.send(encode(whole(2)), number(2))
    async with harness.running() as worker:
        await until(lambda: len(harness.sink.stored) == 1)
        await worker.committer.commit()
        found = row(harness)
        assert (found.in_flight, found.stored, found.adds_up) == (2, 0, True)
        app.send(encode(fragment(1, [span(2)], end=End(2))), number(1))
        await until(harness.all_committed)
    assert (row(harness).stored, row(harness).in_flight) == (3, 0)


async def test_the_ledger_is_never_behind_what_is_committed():
    harness = Harness(partitions=2)
    behind = []
    log = MemoryLog(harness.broker)
    commit = log.commit

    async def watched(offsets, notes):
        kept = map(read_entry, harness.ledger.entries.values())
        places = {one.partition: one.offset for one in kept if isinstance(one, Place)}
        behind.extend(p for p, offset in offsets.items() if places.get(p.partition, 0) < offset)
        return await commit(offsets, notes)

    log.commit = watched
    app = App(harness)
    async with harness.running(harness.pipeline(log=log)):
        for trace_id in range(50):
            app.send(encode(whole(trace_id)), number(trace_id))
            await asyncio.sleep(0.002)
        await until(harness.all_committed)
    assert behind == []


async def test_without_its_topic_the_worker_goes_on_and_says_so_once(caplog):
    harness = Harness(partitions=1)
    harness.ledger.missing = True
    app = App(harness)
    async with harness.running() as worker:
        for trace_id in range(20):
            app.send(encode(whole(trace_id)), number(trace_id))
            await asyncio.sleep(0.005)
        await until(harness.all_committed)
        assert sample(worker, "ledger_records_total", outcome="stored") == 20
    assert len(harness.sink.stored) == 20
    said = [one for one in caplog.records if one.name == "spanferry.ledger"]
    assert [one.levelname for one in said] == ["WARNING"]
    harness.ledger.missing = False
    async with harness.running():
        app.send(encode(whole(99)), number(99))
        await until(harness.all_committed)
    found = row(harness)
    assert (found.unaccounted, found.stored, found.missing) == (20, 1, 0)


async def test_what_could_not_be_written_is_written_with_the_next_commit():
    harness = Harness(partitions=1)
    app = App(harness)
    async with harness.running() as worker:
        app.send(encode(whole(1)), number(1))
        await until(harness.all_committed)
        harness.ledger.transient_failures = 2
        app.send(encode(whole(2)), number(2))
        await until(harness.all_committed)
        await until(lambda: not harness.ledger.transient_failures or _send(app, worker))
        app.send(encode(whole(3)), number(3))
        await until(harness.all_committed)
    assert row(harness).stored == app.records
    assert row(harness).adds_up


async def test_a_commit_waits_for_the_ledger_but_not_for_ever(monkeypatch):
    harness = Harness(partitions=1)
    app = App(harness)
    async with harness.running() as worker:
        app.send(encode(whole(1)), number(1))
        await until(harness.all_committed)
        harness.ledger.transient_failures = 1_000_000
        app.send(encode(whole(2)), number(2))
        await until(lambda: harness.ledger.transient_failures < 999_990)
        assert worker.writer.idle.is_set()
        assert not harness.all_committed()
        monkeypatch.setattr(books, "_PATIENCE_MS", 0)
        await until(harness.all_committed)


async def _kept_and_away() -> tuple[Harness, App]:
    """A record is committed and counted; then the ledger is away, and another comes."""
    harness = Harness(partitions=1)
    app = App(harness)
    async with harness.running():
        app.send(encode(whole(1)), number(1))
        await until(harness.all_committed)
    harness.ledger.transient_failures = 1_000_000
    app.send(encode(whole(2)), number(2))
    return harness, app


async def test_a_commit_waits_until_what_was_kept_before_is_read(monkeypatch):
    monkeypatch.setattr(books, "_LOOK_S", 0.02)
    harness, _ = await _kept_and_away()
    async with harness.running():
        await until(lambda: len(harness.sink.stored) == 2)
        await until(lambda: harness.ledger.transient_failures < 999_990)
        assert not harness.all_committed()
        harness.ledger.transient_failures = 0
        await until(harness.all_committed)
    assert (row(harness).stored, row(harness).unaccounted) == (2, 0)


async def test_what_is_committed_while_the_ledger_cannot_be_read_is_counted_once_it_can(
    monkeypatch,
):
    monkeypatch.setattr(books, "_LOOK_S", 0.02)
    monkeypatch.setattr(books, "_RETRY_S", 0.02)
    harness, _ = await _kept_and_away()
    monkeypatch.setattr(books, "_PATIENCE_MS", 0)
    async with harness.running():
        await until(harness.all_committed)
        assert row(harness).stored == 1, "not counted yet"
        harness.ledger.transient_failures = 0
        await until(lambda: row(harness).stored == 2)
    assert (row(harness).stored, row(harness).unaccounted) == (2, 0)


async def test_what_waits_to_be_counted_is_bounded(monkeypatch):
    monkeypatch.setattr(books, "_PATIENCE_MS", 0)
    monkeypatch.setattr(books, "_UNCOUNTED_MAX", 5)
    harness = Harness(partitions=1)
    harness.ledger.transient_failures = 1_000_000
    app = App(harness)
    async with harness.running() as worker:
        for trace_id in range(30):
            app.send(encode(whole(trace_id)), number(trace_id))
            await until(harness.all_committed)
        [lane] = worker.lanes
        assert len(lane.books.window) <= 6


async def test_where_what_was_kept_before_cannot_be_read_for_long_the_hole_is_told(
    monkeypatch, caplog
):
    monkeypatch.setattr(books, "_LOOK_S", 0.02)
    harness, app = await _kept_and_away()
    monkeypatch.setattr(books, "_PATIENCE_MS", 0)
    async with harness.running():
        await until(harness.all_committed)
    harness.ledger.transient_failures = 0
    app.send(encode(whole(3)), number(3))
    async with harness.running():
        await until(harness.all_committed)
        await until(
            lambda: any(
                "has a hole: partition 0 was committed from 1 to 2" in one.message
                for one in caplog.records
            )
        )
    assert (row(harness).stored, row(harness).unaccounted) == (2, 1)


async def test_what_could_not_be_written_is_written_without_another_commit(monkeypatch):
    monkeypatch.setattr(books, "_LOOK_S", 0.02)
    monkeypatch.setattr(books, "_PATIENCE_MS", 0)
    harness = Harness(partitions=1)
    app = App(harness)
    async with harness.running():
        app.send(encode(whole(1)), number(1))
        await until(harness.all_committed)
        harness.ledger.transient_failures = 1
        app.send(encode(whole(2)), number(2))
        await until(harness.all_committed)
        await until(lambda: row(harness).stored == app.records)
    assert row(harness).adds_up


def _send(app: App, worker: Pipeline) -> bool:
    """More to commit, and False."""
    if worker.writer.idle.is_set():
        app.send(encode(whole(1000 + app.records)), number(1000 + app.records))
    return False


async def test_reports_say_what_was_dropped_and_what_never_came():
    harness = Harness(partitions=2)
    app = App(harness)
    app.send(encode(whole(2)), number(2))
    now_ns = harness.clock.now_ms() * 10**6
    told = ((0, 3), (1, 1))
    report = Report(APP, made_ns=now_ns, acknowledged=told, dropped={"buffer_full": 7})
    harness.broker.produce(encode(report), key=APP, partition=1)
    async with harness.running() as worker:
        await until(harness.all_committed)
        worker.books.look()
        assert sample(worker, "ledger_dropped_parcels") == 7
    found = row(harness)
    assert (found.produced, found.stored, found.dropped, found.missing) == (11, 1, 7, 3)
    assert found.places == {0: [(1, 2)], 1: [(0, 0)]}
    assert harness.letters.letters == []


@pytest.mark.parametrize("seed", range(3))
async def test_workers_that_die_and_partitions_that_move_lose_no_account(seed: int):
    """Killed in the middle of everything, or joined by another: at the end it adds up exactly."""
    chance = random.Random(seed)
    harness = Harness(partitions=3, assemble__idle_s=0.5, decode__chunk_age_s=1.0)
    harness.sink.delay_s = 0.002
    apps = [App(harness, bytes([n]) * 8) for n in range(3)]
    for round_ in range(5):
        worker = harness.pipeline()
        task = asyncio.ensure_future(worker.run())
        for trace_id in range(round_ * 30, round_ * 30 + 30):
            app = chance.choice(apps)
            app.send(encode(fragment(trace_id, [span(2), span(3)])), number(trace_id))
            await asyncio.sleep(0.001)
            app.send(encode(fragment(trace_id, [span(1)], end=End(3))), number(trace_id))
        if chance.random() < 0.5:
            async with harness.running():
                await asyncio.sleep(0.02)
        await asyncio.sleep(chance.random() * 0.05)
        task.cancel()  # as dead as a task can be
        await asyncio.gather(task, return_exceptions=True)
        said = statement(harness)
        assert said.wrong == [], said
        assert said.totals.produced == sum(app.records for app in apps)
        assert said.totals.unaccounted == 0
    async with harness.running():
        await until(harness.all_committed)
    said = statement(harness)
    assert said.totals.stored == said.totals.produced == sum(app.records for app in apps)
    assert len(harness.sink.stored) == 150
