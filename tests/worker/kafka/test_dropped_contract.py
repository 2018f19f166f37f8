"""The log of dropped traces: one contract, in memory, on the embedded broker, on Apache Kafka."""

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.errors import TransientError
from spanferry_worker.ports import DroppedLog
from spanferry_worker.services import kafka_dropped
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka_admin import describe_topic
from spanferry_worker.services.kafka_dropped import KafkaDropped
from spanferry_worker.testing import MemoryDropped
from tests.worker.kafka.logs import kafka_settings, topic_on


@pytest.fixture(params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], DroppedLog]]:
    """Makes logs of one topic, whose traces have two partitions."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            shared = MemoryDropped(SystemClock(), portion=2)
            yield lambda: shared
            return
        servers, topic = await topic_on(stack, request, 2)
        yield lambda: KafkaDropped(kafka_settings(servers, topic))


async def portions(log: DroppedLog, partition: int) -> list[list[bytes | None]]:
    async with contextlib.aclosing(log.tail(partition)) as tail:
        return [[record.value for record in records] async for records in tail]


async def test_the_newest_is_read_first(
    logs: Callable[[], DroppedLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_dropped, "_PORTION_FIRST", 2)
    first, second = logs(), logs()
    await first.open()
    assert await portions(first, 0) == []
    for n in range(5):
        await first.append([(0, b"%d" % n), (1, b"other")])
    await second.open()
    found = await portions(second, 0)
    assert found[0] == [b"3", b"4"]
    assert [value for portion in reversed(found) for value in portion] == [
        b"0", b"1", b"2", b"3", b"4",
    ]  # fmt: skip
    async with contextlib.aclosing(second.tail(1)) as tail:
        async for records in tail:
            assert records[-1].timestamp > 1_600_000_000_000
            break
    for log in (first, second):
        await log.close()


async def test_it_grows_with_the_traces() -> None:
    async with EmbeddedBroker() as broker:
        broker.create_topic("traces", 2, {"retention.ms": "3600000"})
        settings = kafka_settings(broker.bootstrap_servers)
        log = KafkaDropped(settings)
        await log.open()
        state = await describe_topic(settings.kafka, "traces.dropped")
        assert state is not None
        assert (state.partitions, state.retention_ms) == (2, 3_600_000)
        assert state.cleanup_policy == "delete"
        with pytest.raises(TransientError, match="no partition 2 yet"):
            await log.append([(2, b"x")])
        with pytest.raises(TransientError, match="no partition 2 yet"):
            await portions(log, 2)
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        await admin.start()
        await admin.create_partitions({"traces": NewPartitions(3)})
        await admin.close()
        await log.close()
        await log.open()
        await log.append([(2, b"x")])
        assert await portions(log, 2) == [[b"x"]]
        await log.close()


async def test_without_kafka_it_says_so_for_now() -> None:
    log = KafkaDropped(kafka_settings("127.0.0.1:9", "traces"))
    with pytest.raises(TransientError):
        await log.append([(0, b"1")])
    with pytest.raises(TransientError):
        await log.open()
    await log.close()
