"""What the contract does not say: missing topics, dead letters, topics made and checked."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OutOfOrderSequenceNumber

from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.errors import FatalError, SettingsError, TransientError
from spanferry_worker.ports import DeadLetter
from spanferry_worker.services.kafka import KafkaLog
from spanferry_worker.services.kafka_admin import TopicPlan, TopicState, describe_topic, problems
from spanferry_worker.services.kafka_client import connection_options, kafka_border
from spanferry_worker.services.kafka_dead_letters import VERSION, KafkaDeadLetters
from spanferry_worker.services.kafka_producer import LastingProducer, Outgoing
from spanferry_worker.settings import KafkaSettings
from spanferry_worker.testing import MemoryRecord
from tests.services.kafka import KafkaServer
from tests.worker.events import T0_MS
from tests.worker.kafka.logs import Owner, kafka_settings, read_topic


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as server:
        yield server


async def test_a_missing_topic_is_waited_for_with_the_remedy(broker: EmbeddedBroker):
    log = KafkaLog(kafka_settings(broker.bootstrap_servers, "nowhere").kafka)
    with pytest.raises(TransientError, match=r"nowhere does not exist.*spanferry topics create"):
        await log.open(Owner())
    broker.create_topic("nowhere", 1)
    await log.open(Owner())
    await log.close()


async def test_a_broker_that_is_not_there_is_waited_for():
    log = KafkaLog(kafka_settings("127.0.0.1:9").kafka)
    with pytest.raises(TransientError, match=r"cannot reach Kafka at 127\.0\.0\.1:9"):
        await log.open(Owner())
    with pytest.raises(TransientError, match="not connected"):
        await log.poll(timeout_s=0, records_max=1)


async def test_a_dead_letter_keeps_everything_and_says_why(broker: EmbeddedBroker):
    broker.create_topic("traces", 2)
    settings = kafka_settings(broker.bootstrap_servers)
    letters = KafkaDeadLetters(settings)
    record = MemoryRecord("traces", 1, 42, T0_MS, b"key", b"\x00\xff", [("spanferry", b"\x01")])
    bare = MemoryRecord("traces", 0, 7, T0_MS, None, None, [])
    await letters.open()
    await letters.send(
        [
            DeadLetter(record, "malformed", "nö", T0_MS + 5),
            DeadLetter(bare, "empty", "no value", T0_MS),
        ]
    )
    await letters.close()
    first, second = await read_topic(broker.bootstrap_servers, "traces.dlq", 2)
    if first.key is None:
        first, second = second, first
    assert (first.key, first.value) == (b"key", b"\x00\xff")
    headers = dict(first.headers)
    assert headers.pop("spanferry") == b"\x01"
    assert {name: text.decode() for name, text in headers.items()} == {
        "dlq.reason": "malformed",
        "dlq.message": "nö",
        "dlq.topic": "traces",
        "dlq.partition": "1",
        "dlq.offset": "42",
        "dlq.timestamp_ms": str(T0_MS),
        "dlq.group": settings.kafka.group,
        "dlq.failed_at_ms": str(T0_MS + 5),
        "dlq.attempts": "1",
        "dlq.version": VERSION,
    }
    assert second.value == b""


async def test_the_dead_letters_need_the_traces_topic_first(broker: EmbeddedBroker):
    letters = KafkaDeadLetters(kafka_settings(broker.bootstrap_servers))
    with pytest.raises(TransientError, match="spanferry topics create"):
        await letters.open()
    with pytest.raises(TransientError, match="not connected"):
        await letters.send([])


async def test_a_topic_is_described_and_never_made_by_asking(broker: EmbeddedBroker):
    settings = kafka_settings(broker.bootstrap_servers).kafka
    assert await describe_topic(settings, "traces") is None
    assert await describe_topic(settings, "traces") is None
    broker.create_topic("traces", 3, {"max.message.bytes": "123456"})
    state = await describe_topic(settings, "traces")
    assert state is not None
    assert (state.partitions, state.message_bytes_max) == (3, 123_456)


def test_an_existing_topic_that_will_not_do_is_explained():
    state = TopicState(name="t", partitions=2, replication_factor=1, message_bytes_max=500_000)
    few, small = problems(TopicPlan(name="t", partitions=6), state)
    assert "2 partitions, 6 are wanted" in few
    assert "--alter --topic t --partitions 6" in few
    assert "up to 500000 bytes" in small
    assert "--add-config max.message.bytes=" in small
    unknown = TopicState(name="t", partitions=12, replication_factor=1)
    assert problems(TopicPlan(name="t", partitions=6), unknown) == []


def test_foreign_errors_are_sorted_at_the_border():
    from aiokafka import errors

    cases = [
        (errors.KafkaConnectionError("x"), TransientError),
        (errors.RequestTimedOutError(), TransientError),
        (OSError("x"), TransientError),
        (TimeoutError(), TransientError),
        (errors.TopicAuthorizationFailedError("t"), FatalError),
        (errors.GroupAuthorizationFailedError("g"), FatalError),
        (FatalError("ours"), FatalError),
    ]
    for error, kind in cases:
        with pytest.raises(kind), kafka_border("work"):
            raise error
    with pytest.raises(KeyError), kafka_border("work"):
        raise KeyError


async def test_the_error_says_why_no_broker_could_be_used():
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(TransientError) as caught:
        await KafkaLog(settings).open(Owner())
    assert "cannot reach Kafka at 127.0.0.1:1: " in str(caught.value)
    assert "Connect call failed" in str(caught.value)


def test_security_settings_reach_the_client():
    settings = KafkaSettings(
        bootstrap_servers="h:1",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="u",
        sasl_password="p",
    )
    options = connection_options(settings)
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-512", "u")
    assert "ssl_context" not in options
    assert "ssl_context" in connection_options(KafkaSettings(security_protocol="SSL"))
    with pytest.raises(SettingsError, match="ssl_"):
        connection_options(KafkaSettings(security_protocol="SSL", ssl_ca_file="/nowhere.pem"))


@pytest.mark.kafka
async def test_a_producer_that_kafka_refuses_for_ever_is_made_anew(kafka: KafkaServer):
    """As after a batch that failed though it had its numbers: where a partition was without a leader."""
    topic = await asyncio.to_thread(kafka.create_topic, f"gap-{uuid.uuid4().hex[:8]}", 1)
    producer = LastingProducer(kafka_settings(kafka.bootstrap_servers).kafka)
    await producer.open()
    await producer.send(topic, [Outgoing(b"first", None)])
    assert producer._producer is not None
    producer._producer._txn_manager.increment_sequence_number(TopicPartition(topic, 0), 1)
    with pytest.raises(OutOfOrderSequenceNumber):
        await producer.send(topic, [Outgoing(b"refused", None)])
    await producer.send(topic, [Outgoing(b"second", None)])
    await producer.close()
    found = await read_topic(kafka.bootstrap_servers, topic, 2)
    assert [record.value for record in found] == [b"first", b"second"]
