"""The fleet's log for sampling: one contract, in memory, on the embedded broker, on Apache Kafka."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import FleetLog
from spanferry_worker.services.kafka_fleet import KafkaFleet
from spanferry_worker.testing import MemoryFleet, MemoryFleetTopic
from tests.worker.kafka.logs import kafka_settings, topic_on


@pytest.fixture(params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], FleetLog]]:
    """Makes logs of one topic."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            shared = MemoryFleetTopic()
            yield lambda: MemoryFleet(shared)
            return
        servers, topic = await topic_on(stack, request, 1)
        yield lambda: KafkaFleet(kafka_settings(servers, topic))


async def read(log: FleetLog, count: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    async with asyncio.timeout(100):
        while len(found) < count or not log.caught_up():
            found += await log.read(timeout_s=0.1)
    return found


async def test_all_read_the_same_records_in_the_same_order(logs: Callable[[], FleetLog]) -> None:
    first, second = logs(), logs()
    await first.open()
    await second.open()
    await asyncio.gather(
        *(log.append([(b"k%d" % n, b"%d" % (2 * n + i))]) for n in range(5) for i, log in
          enumerate((first, second)))
    )  # fmt: skip
    seen = await read(first, 10)
    assert sorted(seen, key=lambda one: int(one or b"0")) == [b"%d" % n for n in range(10)]
    assert await read(second, 10) == seen
    assert await first.read(timeout_s=0.1) == []
    third = logs()
    await third.open()
    assert not third.caught_up()
    assert await read(third, 10) == seen
    await third.append([(b"k", b"more")])
    assert await read(first, 1) == [b"more"]
    for log in (first, second, third):
        await log.close()


async def test_a_log_that_is_closed_is_read_from_its_beginning_when_it_is_opened_again(
    logs: Callable[[], FleetLog],
) -> None:
    log = logs()
    await log.open()
    await log.append([(b"a", b"1"), (b"b", b"2")])
    assert await read(log, 2) == [b"1", b"2"]
    await log.close()
    await log.open()
    assert await read(log, 2) == [b"1", b"2"]
    await log.close()


async def test_without_kafka_it_says_so_for_now() -> None:
    log = KafkaFleet(kafka_settings("127.0.0.1:9", "traces"))
    with pytest.raises(TransientError):
        await log.read(timeout_s=0.1)
    with pytest.raises(TransientError):
        await log.append([(b"a", b"1")])
    await log.close()
