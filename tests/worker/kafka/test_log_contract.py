"""RecordLog: one contract for the double, the embedded broker and Apache Kafka."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from spanferry_worker.ports import Partition, RecordLog
from spanferry_worker.stages.note import NOTE_CHARS_MAX
from spanferry_worker.stages.trace import Position
from tests.services.kafka import KafkaServer
from tests.worker.kafka.logs import (
    PARTITIONS,
    Owner,
    Place,
    embedded_place,
    kafka_place,
    memory_place,
    opened,
    poll_until,
    topic_on,
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


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """One with sessions and names."""
    async with contextlib.AsyncExitStack() as stack:
        servers, topic = await topic_on(stack, request, PARTITIONS)
        yield await stack.enter_async_context(kafka_place(servers, topic))


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
        async with asyncio.timeout(30):
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


async def test_what_is_noted_beside_an_offset_is_told_to_whoever_goes_on_there(place: Place):
    await place.produce(0, b"v", [])
    zero, one = (Partition(place.topic, n) for n in range(PARTITIONS))
    async with opened(place.log(), Owner()) as log:
        await poll_until(log, 1)
        assert await log.commit({zero: 0, one: 0}, {zero: "1:" + "x" * (NOTE_CHARS_MAX - 2)})
    owner = Owner()
    async with opened(place.log(), owner) as log:
        await poll_until(log, 1)
        assert owner.notes == {zero: "1:" + "x" * (NOTE_CHARS_MAX - 2), one: ""}
        assert await log.commit({zero: 1})
    await place.produce(0, b"v", [])
    owner = Owner()
    async with opened(place.log(), owner) as log:
        await poll_until(log, 1)
        assert owner.notes[zero] == ""


@pytest.mark.kafka
async def test_a_broker_that_takes_no_notes_gets_the_offsets_alone(kafka: KafkaServer, caplog):
    name = f"contract-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(kafka.create_topic, name, PARTITIONS)
    async with kafka_place(kafka.bootstrap_servers, name) as place:
        await place.produce(0, b"v", [])
        zero = Partition(name, 0)
        async with opened(place.log(), Owner()) as log:
            await poll_until(log, 1)
            for _ in range(2):
                assert await log.commit({zero: 1}, {zero: "x" * 5_000})
        await place.produce(0, b"v", [])
        owner = Owner()
        async with opened(place.log(), owner) as log:
            await poll_until(log, 1)
            assert owner.resumed_partitions == {zero}
            assert owner.notes == {zero: ""}
    assert [one.event for one in caplog.records if "takes no notes" in one.message] == [
        "commit.unnoted"
    ]


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
        async with asyncio.timeout(60):
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


@pytest.mark.parametrize("broker", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
async def test_a_member_that_starts_again_under_its_name_moves_nothing(broker: Place):
    lasting = {"session_timeout_s": 30.0, "heartbeat_s": 0.3}
    for partition in range(PARTITIONS):
        await broker.produce(partition, b"v", [])
    stays, leaves, comes = Owner(), Owner(), Owner()
    async with opened(broker.log(group_instance_id="a", **lasting), stays) as first:
        async with opened(broker.log(group_instance_id="b", **lasting), leaves) as second:
            [record] = await poll_until(second, 1)
            assert await second.commit({Partition(broker.topic, record.partition): 1})
        await broker.produce(record.partition, b"next", [])
        shares = stays.shares
        async with opened(broker.log(group_instance_id="b", **lasting), comes) as third:
            [found] = await poll_until(third, 1)
            assert (found.partition, found.offset) == (record.partition, 1)
            assert comes.partitions == leaves.partitions
            await asyncio.sleep(1)  # some heartbeats of the one that stays
            assert await first.lag() is not None
    assert stays.shares == shares, "it has been dealt out again"


async def test_of_two_with_one_name_the_former_commits_nothing_more(broker: Place):
    """It learns so from its commit: its next heartbeat is far away. Neither hangs."""
    name = {"group_instance_id": "one", "session_timeout_s": 40.0, "heartbeat_s": 13.0}
    zero = Partition(broker.topic, 0)
    for _ in range(3):
        await broker.produce(0, b"v", [])
    async with asyncio.timeout(100):
        async with opened(broker.log(**name), Owner()) as former:
            await poll_until(former, 3)
            assert await former.commit({zero: 1})
            async with opened(broker.log(**name), Owner()) as latter:
                assert [record.offset for record in await poll_until(latter, 2)] == [1, 2]
                assert await latter.commit({zero: 2})
                assert await former.commit({zero: 1}) is False
        async with opened(broker.log(**name), Owner()) as third:
            assert [record.offset for record in await poll_until(third, 1)] == [2]


async def test_who_was_not_heard_of_for_a_session_commits_nothing_and_joins_anew(broker: Place):
    """Nor when all others have left: a broker then takes offsets from anybody who claims no generation."""
    session = {"session_timeout_s": 6.0, "heartbeat_s": 0.5}
    zero = Partition(broker.topic, 0)
    for _ in range(3):
        await broker.produce(0, b"v", [])
    owner, commits = Owner(), []
    async with opened(broker.log(**session), owner) as silent:
        await poll_until(silent, 3)

        async def commit() -> None:
            commits.append(await silent.commit({zero: 1}))

        owner.before_revoked = commit
        with unheard(silent):
            async with opened(broker.log(**session), Owner()) as other:
                await poll_until(other, 3)
                assert await other.commit({zero: 3})
            await commit()
        async with asyncio.timeout(100):
            while owner.shares < 2:
                await silent.poll(timeout_s=0.1, records_max=10)
        assert commits == [False, False], "before it knew, and when it was told"
        await broker.produce(0, b"next", [])
        assert [record.offset for record in await poll_until(silent, 1)] == [3]
        assert await silent.commit({zero: 4})


@contextlib.contextmanager
def unheard(log: RecordLog) -> Iterator[None]:
    """Its heartbeats are lost, and it does not know."""

    async def lost() -> bool:
        return True

    coordinator: Any = log._consumer._coordinator
    coordinator._do_heartbeat = lost
    try:
        yield
    finally:
        del coordinator._do_heartbeat


async def test_it_can_be_opened_again(place: Place):
    await place.produce(0, b"v", [])
    log = place.log()
    async with opened(log, Owner()):
        await poll_until(log, 1)
    async with opened(log, Owner()):
        await poll_until(log, 1)
