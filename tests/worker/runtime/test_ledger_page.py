"""The ledger on /metrics: produced is the sum of what became of it, and is not where a record is lost."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spanferry_schemas import Report, encode
from spanferry_worker.runtime.pages import worker_pages
from spanferry_worker.runtime.pipeline import Pipeline
from tests.worker.events import fragment, number, span, whole
from tests.worker.runtime.harness import Harness, until
from tests.worker.runtime.test_ledger import APP, App, statement

pytestmark = pytest.mark.both_loops

OTHER = b"app-0002"
OUTCOMES = ("stored", "sampled", "dead_lettered", "in_flight", "settled", "unaccounted")
NAMES = (
    "account_records",
    "produced_records",
    "missing_records",
    "dropped_parcels",
    "producers",
    "wrong_producers",
    "kept",
)


async def page(worker: Pipeline) -> dict[str, float]:
    """What Prometheus reads: the metrics of the ledger, those with an outcome by its name."""
    parts = worker._parts
    await worker.watch.look()
    worker.books.look()
    answer = await worker_pages(worker, parts.metrics, parts.clock)["/metrics"]()
    families = text_string_to_metric_families(answer.body.decode())
    found: dict[str, float] = {}
    for one in (sample for family in families for sample in family.samples):
        name = one.name.removeprefix("spanferry_ledger_")
        if name in NAMES:
            found[one.labels.get("outcome", name)] = one.value
    return found


def accounted(found: dict[str, float]) -> float:
    """The right side of the equation."""
    return sum(found[name] for name in (*OUTCOMES, "written_off", "dropped_parcels"))


async def test_produced_is_the_sum_of_what_became_of_it():
    harness = Harness(partitions=2, assemble__idle_s=60)
    harness.sink.poison = lambda trace: trace.trace_id == number(2)
    app, other = App(harness), App(harness, OTHER)
    for trace_id in range(1, 9):
        (app if trace_id % 2 else other).send(encode(whole(trace_id)), number(trace_id))
    report = Report(APP, made_ns=harness.clock.now_ms() * 10**6, acknowledged=(), dropped={"x": 7})
    harness.broker.produce(encode(report), key=APP, partition=1)
    async with harness.running() as worker:
        await until(harness.all_committed)
        app.send(encode(fragment(50, [span(1)])), number(50))  # stays open
        app.send(encode(whole(52)), number(52))  # behind it, in the same partition
        await until(lambda: number(52) in harness.sink.stored)
        found = await page(worker)
        assert found["produced_records"] == accounted(found) == 10 + 7
        assert [found[name] for name in OUTCOMES] == [7, 0, 1, 2, 0, 0]
        assert (found["missing_records"], found["wrong_producers"], found["kept"]) == (0, 0, 1)
        said = statement(harness).totals
        assert found["produced_records"] == said.produced
        assert [found[name] for name in OUTCOMES] == [getattr(said, name) for name in OUTCOMES]


async def test_a_lost_record_makes_the_sum_fail_and_the_producer_is_counted():
    harness = Harness(partitions=2)
    app, other = App(harness), App(harness, OTHER)
    for trace_id in range(1, 9):
        app.send(encode(whole(trace_id)), number(trace_id), lost=trace_id in {3, 4})
        other.send(encode(whole(trace_id + 100)), number(trace_id + 100))
    async with harness.running() as worker:
        await until(harness.all_committed)
        found = await page(worker)
        assert found["produced_records"] == 16
        assert found["produced_records"] - accounted(found) == found["missing_records"] == 2
        assert found["wrong_producers"] == 1, "in two partitions, and one producer all the same"
        assert found["producers"] == 4


async def test_what_no_worker_has_read_yet_is_in_flight():
    harness = Harness(partitions=1)
    app = App(harness)
    async with harness.running() as worker:
        app.send(encode(whole(1)), number(1))
        await until(harness.all_committed)
        worker._parts.log.pause()
        for trace_id in range(2, 7):
            app.send(encode(whole(trace_id)), number(trace_id))
        found = await page(worker)
        assert (found["produced_records"], found["in_flight"]) == (6, 5)
        worker._parts.log.resume()
        await until(harness.all_committed)
        found = await page(worker)
        assert (found["produced_records"], found["in_flight"], found["stored"]) == (6, 0, 6)


async def test_what_is_read_again_after_a_kill_is_counted_once():
    harness = Harness(partitions=1)
    app = App(harness)
    for trace_id in range(1, 5):
        app.send(encode(whole(trace_id)), number(trace_id))
    async with harness.running():
        await until(harness.all_committed)
    place = harness.broker.partitions[0]
    harness.broker.committed[place], harness.broker.notes[place] = 2, ""  # behind the ledger
    harness.sink.delay_s = 0.3
    async with harness.running() as worker:
        await until(lambda: list(worker.lanes))
        [lane] = worker.lanes
        await until(lambda: lane.kept and len(lane.books.window) == 2)
        found = await page(worker)
        assert (found["produced_records"], found["stored"], found["in_flight"]) == (4, 4, 0)
        await until(harness.all_committed)
        found = await page(worker)
        assert (found["produced_records"], found["stored"], found["in_flight"]) == (4, 4, 0)


async def test_what_a_policy_drops_is_sampled():
    harness = Harness(partitions=1, sample__rules=[{"name": "none", "action": "drop"}])
    App(harness).send(encode(whole(1)), number(1))
    async with harness.running() as worker:
        await until(harness.all_committed)
        found = await page(worker)
        assert found["produced_records"] == accounted(found) == found["sampled"] == 1


async def test_a_closed_account_with_a_loss_is_written_off(monkeypatch: pytest.MonkeyPatch):
    harness = Harness(partitions=1, ledger__producers_max=1)
    monkeypatch.setattr("spanferry_worker.stages.ledger._LOOK_MS", 0)
    app, other = App(harness), App(harness, OTHER)
    async with harness.running() as worker:
        for n, lost in enumerate((False, True, False), 1):
            app.send(encode(whole(n)), number(n), lost=lost)
        await until(harness.all_committed)
        assert (await page(worker))["missing_records"] == 1
        await asyncio.sleep(0.002)
        for n in (9, 10):
            other.send(encode(whole(n)), number(n))
            await until(harness.all_committed)
        found = await page(worker)
        assert (found["written_off"], found["missing_records"], found["producers"]) == (1, 0, 1)
        assert found["produced_records"] == accounted(found) == 5


async def test_kept_says_whether_the_ledger_is():
    harness = Harness(partitions=1)
    harness.ledger.missing = True
    async with harness.running() as worker:
        App(harness).send(encode(whole(1)), number(1))
        await until(harness.all_committed)
        assert (await page(worker))["kept"] == 0
    spare = harness.pipeline()  # more processes than partitions: it has none, and nothing is amiss
    assert (await page(spare))["kept"] == 1
    off = harness.pipeline(ledger=None)
    assert (await page(off))["kept"] == 0
