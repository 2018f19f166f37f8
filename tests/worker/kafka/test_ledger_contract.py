"""The ledger's log: one contract, in memory, on the embedded broker, on Apache Kafka."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ports import LedgerLog, Partition
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka_admin import TopicPlan, describe_topic, problems
from spanferry_worker.services.kafka_ledger import KafkaLedger, read_kept
from spanferry_worker.stages.accounts import (
    Account,
    Counts,
    Entry,
    Page,
    Place,
    key_of,
    write_entry,
)
from spanferry_worker.testing import MemoryBroker, MemoryLedger
from tests.services.kafka import KafkaServer
from tests.worker.kafka.logs import kafka_settings, topic_on

TOPIC = "traces"
PARTITION = Partition(TOPIC, 0)


@pytest.fixture(params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], LedgerLog]]:
    """Makes logs that see what the others have saved."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            broker = MemoryBroker(SystemClock(), topic=TOPIC)
            kept = MemoryLedger(broker)
            yield lambda: kept
            return
        settings = kafka_settings(*await topic_on(stack, request, 1))
        yield lambda: KafkaLedger(settings)


def page(stored: int) -> Page:
    account = Account(b"1" * 8, stored, stored, [], Counts(stored=stored))
    return Page("group", TOPIC, 0, 1, [account])


async def test_of_every_key_the_newest_is_read_also_by_somebody_else(
    logs: Callable[[], LedgerLog],
) -> None:
    first = logs()
    await first.open()
    assert (await first.load([])).kept == []
    place = Place("group", TOPIC, 0, offset=7)
    await first.save([write_entry(page(1)), write_entry(place)])
    await first.save([write_entry(page(2))])
    second = logs()
    await second.open()
    kept = (await second.load([])).kept
    assert sorted(kept, key=repr) == sorted([page(2), place], key=repr)
    await second.save([Entry(key_of(place), None)])
    assert list((await first.load([])).kept) == [page(2)], "what was taken back is gone"
    await first.close()
    await second.close()


@pytest.mark.kafka
async def test_the_topic_is_made_compacted_and_one_that_is_not_is_found_out(
    kafka: KafkaServer,
) -> None:
    topic = f"traces-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(kafka.create_topic, topic, 1)
    settings = kafka_settings(kafka.bootstrap_servers, topic)
    ledger = KafkaLedger(settings)
    await ledger.open()
    await ledger.close()
    state = await describe_topic(settings.kafka, settings.ledger_topic)
    assert state is not None
    plan = TopicPlan.for_ledger(settings.ledger_topic, 1)
    assert (state.partitions, state.cleanup_policy, problems(plan, state)) == (1, "compact", [])
    traces = await describe_topic(settings.kafka, topic)
    assert traces is not None
    assert "cleanup.policy=compact" in problems(TopicPlan.for_ledger(topic, 1), traces)[0]


@pytest.mark.kafka
async def test_ends_of_partitions_are_said_and_a_missing_topic_is_named(kafka: KafkaServer) -> None:
    topic = f"traces-{uuid.uuid4().hex[:8]}"
    settings = kafka_settings(kafka.bootstrap_servers, topic)
    with pytest.raises(TransientError, match="does not exist"):
        await KafkaLedger(settings).open()
    with pytest.raises(FatalError, match="spanferry topics create"):
        await read_kept(settings, [])
    await asyncio.to_thread(kafka.create_topic, topic, 2)
    ledger = KafkaLedger(settings)
    await ledger.open()
    found = await ledger.load([Partition(topic, 1)])
    await ledger.close()
    assert found.ends == {Partition(topic, 1): 0}
