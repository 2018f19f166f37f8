"""RecordLog: one contract for the double, the embedded broker and Apache Kafka."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import pytest

from spanferry_worker.ports import Partition
from spanferry_worker.stages.trace import Position
from tests.worker.kafka.logs import (
    PARTITIONS,
    Owner,
    Place,
    embedded_place,
    kafka_place,
    memory_place,
    opened,
    poll_until,
)


@pytest.fixture(
    params=["memory", "group", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)]
)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            yield await stack.enter_async_context(memory_place())
        elif request.param == "group":
            yield await stack.enter_async_context(memory_place(grouped=True))
        elif request.param == "embedded":
            yield await stack.enter_async_context(embedded_place())
        else:
            server = request.getfixturevalue("kafka")
            name = f"contract-{uuid.uuid4().hex[:8]}"
            await asyncio.to_thread(server.create_topic, name, PARTITIONS)
            yield await stack.enter_async_context(kafka_place(server.bootstrap_servers, name))


async def test_records_come_whole_and_in_order(place: Place):
    for index in range(5):
        await place.produce(0, b"value-%d" % index, [("name", b"x")])
    owner = Owner()
    async with opened(place.log(), owner) as log:
        assert owner.partitions == {Partition(place.topic, n) for n in range(PARTITIONS)}
        records = await poll_until(log, 5)
    assert [record.value for record in records] == [b"value-%d" % index for index in range(5)]
    assert [record.offset for record in records] == list(range(5))
    first = records[0]
    assert (first.topic, first.partition, first.key) == (place.topic, 0, b"key")
    assert list(first.headers) == [("name", b"x")]
    assert first.timestamp > 1_600_000_000_000


async def test_no_more_than_asked_for(place: Place):
    for index in range(10):
        await place.produce(index % PARTITIONS, b"v", [])
    async with opened(place.log(), Owner()) as log:
        counts = []
        while sum(counts) < 10:
            polled = await log.poll(timeout_s=1.0, records_max=3)
            counts.append(sum(map(len, polled.values())))
    assert max(counts) <= 3


async def test_a_poll_without_records_returns_in_time(place: Place):
    async with opened(place.log(), Owner()) as log:
        async with asyncio.timeout(5):
            assert not await log.poll(timeout_s=0.1, records_max=10)


async def test_it_goes_on_at_what_was_committed_and_says_so(place: Place):
    for index in range(4):
        await place.produce(1, b"v%d" % index, [])
    zero, one = (Partition(place.topic, n) for n in range(PARTITIONS))
    owner = Owner()
    async with opened(place.log(), owner) as log:
        await poll_until(log, 4)
        assert owner.resumed_partitions == set()
        assert await log.commit({one: 3}) is True
    owner = Owner()
    async with opened(place.log(), owner) as log:
        [record] = await poll_until(log, 1)
        assert (record.partition, record.offset) == (1, 3)
        assert owner.resumed_partitions == {one}
        assert zero in owner.partitions


async def test_nothing_comes_while_paused_and_nothing_is_skipped(place: Place):
    async with opened(place.log(), Owner()) as log:
        log.pause()
        for index in range(3):
            await place.produce(0, b"v%d" % index, [])
        for _ in range(5):
            assert not await log.poll(timeout_s=0.1, records_max=10)
        log.resume()
        assert len(await poll_until(log, 3)) == 3


async def test_it_knows_how_much_waits(place: Place):
    zero = Partition(place.topic, 0)
    for _ in range(3):
        await place.produce(0, b"v", [])
    async with opened(place.log(), Owner()) as log:
        assert (await log.lag())[zero] == 3
        await poll_until(log, 3)
        assert (await log.lag())[zero] == 0
        async with asyncio.timeout(10):
            while not log.caught_up(zero):
                await log.poll(timeout_s=0.1, records_max=10)
    assert not log.caught_up(zero)


async def test_records_are_read_again_by_their_positions(place: Place):
    for index in range(10):
        await place.produce(index % PARTITIONS, b"v%d" % index, [("n", b"%d" % index)])
    wanted = [Position(place.topic, p, o) for p, o in ((1, 3), (0, 0), (0, 4), (0, 99), (9, 0))]
    async with opened(place.log(), Owner()) as log:
        records = await log.read(wanted)
    assert sorted(record.value for record in records) == [b"v0", b"v7", b"v8"]
    assert {tuple(record.headers) for record in records} >= {(("n", b"7"),)}


async def test_a_second_member_takes_over_half_and_what_was_committed_at_the_last(place: Place):
    zero, one = (Partition(place.topic, n) for n in range(PARTITIONS))
    for partition in (0, 1):
        for _ in range(3):
            await place.produce(partition, b"v", [])
    first_owner, second_owner = Owner(), Owner()
    async with opened(place.log(), first_owner) as first:
        await poll_until(first, 6)
        first_owner.before_revoked = lambda: first.commit({zero: 2, one: 2})

        async def keep_polling() -> None:
            while True:
                await first.poll(timeout_s=0.1, records_max=1)
                await asyncio.sleep(0.01)

        polling = asyncio.ensure_future(keep_polling())
        async with opened(place.log(), second_owner) as second:
            [record] = await poll_until(second, 1)
            assert record.offset == 2
            assert len(second_owner.partitions) == 1
            assert second_owner.resumed_partitions == second_owner.partitions
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)


async def test_a_commit_of_a_partition_that_is_not_ours_is_refused(place: Place):
    async with opened(place.log(), Owner()) as log:
        assert await log.commit({Partition(place.topic, 77): 1}) is False


async def test_it_can_be_opened_again(place: Place):
    await place.produce(0, b"v", [])
    log = place.log()
    async with opened(log, Owner()):
        await poll_until(log, 1)
    async with opened(log, Owner()):
        await poll_until(log, 1)
