"""What facts about Kafka mean."""

from collections.abc import Sequence

import pytest

from spanferry_schemas.limits import RECORD_BYTES_MAX
from spanferry_worker.doctor.findings import Finding, Level
from spanferry_worker.doctor.kafka_checks import (
    judge_dead_letters,
    judge_group,
    judge_handshake,
    judge_ledger,
    judge_nodes,
    judge_topic,
)
from spanferry_worker.doctor.kafka_facts import GroupFacts, Handshake, TopicFacts
from spanferry_worker.doctor.reach import Address, Reach, Reached

BROKER = Address("kafka", 9092)
CONFIG = {
    "max.message.bytes": "1048588",
    "retention.ms": "604800000",
    "cleanup.policy": "delete",
}


def topic(partitions: int = 12, **config: str) -> TopicFacts:
    changed = {key.replace("_", "."): value for key, value in config.items()}
    return TopicFacts("traces", partitions, 0, CONFIG | changed)


def judged(facts: TopicFacts | None, workers: int = 1) -> list[Finding]:
    return judge_topic(facts, "traces", workers=workers, record_bytes_max=RECORD_BYTES_MAX)


def only(found: Sequence[Finding], level: Level, text: str) -> Finding:
    (finding,) = found
    assert finding.level is level
    assert text in finding.text
    assert (finding.remedy is None) == (level is Level.GOOD)
    return finding


def test_a_topic_that_will_do() -> None:
    said = only(judged(topic()), Level.GOOD, "12 partitions").text
    assert said == "traces: 12 partitions, records up to 1,048,588 bytes, kept 7 days"
    assert "kept for ever" in judged(topic(retention_ms="-1"))[0].text


def test_a_missing_topic() -> None:
    assert "topics create" in (only(judged(None), Level.PROBLEM, "does not exist").remedy or "")


def test_fewer_partitions_than_workers() -> None:
    only(judged(topic(3), workers=4), Level.PROBLEM, "1 of them get nothing")
    only(judged(topic(4), workers=4), Level.GOOD, "4 partitions")


def test_partitions_without_a_leader() -> None:
    facts = TopicFacts("traces", 12, 2, CONFIG)
    only(judged(facts), Level.PROBLEM, "2 of 12 partitions")


@pytest.mark.parametrize(("size", "level"), [("900000", Level.PROBLEM), ("901024", Level.GOOD)])
def test_records_larger_than_the_topic_takes(size: str, level: Level) -> None:
    (finding,) = judged(topic(max_message_bytes=size))
    assert finding.level is level
    if level is Level.PROBLEM:
        assert "SPANFERRY_RECORD_BYTES_MAX=898976" in (finding.remedy or "")


def test_a_broker_that_does_not_tell_its_settings() -> None:
    only(judged(TopicFacts("traces", 12)), Level.NOTE, "does not tell")


def test_compaction_would_lose_spans() -> None:
    only(judged(topic(cleanup_policy="compact,delete")), Level.PROBLEM, "compacted")


def test_short_retention_is_worth_a_word() -> None:
    only(judged(topic(retention_ms="3600000")), Level.NOTE, "1 hours")


def test_several_faults_are_all_told() -> None:
    found = judged(topic(1, cleanup_policy="compact", max_message_bytes="1000"), workers=2)
    assert [finding.level for finding in found] == [Level.PROBLEM] * 3


def test_the_ledger() -> None:
    def said(facts: TopicFacts | None, *, enabled: bool = True) -> list[Finding]:
        return [judge_ledger(facts, "traces.ledger", enabled=enabled)]

    compacted = TopicFacts("traces.ledger", 1, 0, {"cleanup.policy": "compact"})
    only(said(compacted), Level.GOOD, "is there")
    only(said(None), Level.NOTE, "does not exist")
    only(said(None, enabled=False), Level.GOOD, "no ledger is kept")
    kept_by_time = TopicFacts("traces.ledger", 1, 0, {"cleanup.policy": "delete"})
    only(said(kept_by_time), Level.PROBLEM, "not compacted")


def test_dead_letters() -> None:
    letters = TopicFacts("traces.dlq", 1, 0, CONFIG)
    only([judge_dead_letters(letters, "traces.dlq", topic())], Level.GOOD, "is there")
    only([judge_dead_letters(None, "traces.dlq", topic())], Level.NOTE, "does not exist")
    small = TopicFacts("traces.dlq", 1, 0, {"max.message.bytes": "1000"})
    only([judge_dead_letters(small, "traces.dlq", topic())], Level.PROBLEM, "would not fit")


def test_workers_that_keep_up() -> None:
    group = GroupFacts("g", "Stable", 2, {0: 5, 1: 7}, {0: 0, 1: 0}, {0: 5, 1: 10})
    only(judge_group(group, topic()), Level.GOOD, "2 worker processes in group g, lag 3")
    group = GroupFacts("g", "PreparingRebalance", 1, {}, {0: 2}, {0: 5})
    only(judge_group(group, topic()), Level.GOOD, "1 worker process in group g (Prep")


def test_no_worker() -> None:
    group = GroupFacts("g", "Dead", 0, {}, {0: 3, 1: 0}, {0: 10, 1: 5})
    finding = only(judge_group(group, topic()), Level.PROBLEM, "12 records wait")
    assert "spanferry worker" in (finding.remedy or "")


def test_records_that_kafka_removed_first() -> None:
    group = GroupFacts("g", "Stable", 1, {0: 5, 1: 9}, {0: 8, 1: 0}, {0: 10, 1: 9})
    only(judge_group(group, topic()), Level.PROBLEM, "3 records were removed")


def test_a_group_without_a_topic_has_nothing_to_say() -> None:
    assert judge_group(GroupFacts("g"), None) == []


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("KafkaConnectionError", "security_protocol"),
        ("AuthenticationFailedError", "sasl_password"),
        ("UnsupportedSaslMechanismError", "sasl_mechanism"),
        ("SSLCertVerificationError", "ssl_ca_file"),
        ("SomethingElse", "security_protocol"),
    ],
)
def test_handshakes_that_fail(kind: str, remedy: str) -> None:
    finding = judge_handshake(Handshake(BROKER, (kind, "why")), "PLAINTEXT")
    assert finding.level is Level.PROBLEM
    assert remedy in (finding.remedy or "")


def test_a_handshake() -> None:
    only([judge_handshake(Handshake(BROKER), "SSL")], Level.GOOD, "speaks Kafka (SSL)")


def test_a_broker_that_announces_an_address_unknown_here() -> None:
    inside = Reach(Address("broker-1.internal", 9092), Reached.UNKNOWN_NAME)
    finding = only(judge_nodes([inside], [BROKER]), Level.PROBLEM, "broker-1.internal:9092")
    assert "advertised.listeners" in (finding.remedy or "")
    fine = Reach(BROKER, Reached.CONNECTED)
    only(judge_nodes([fine], [BROKER]), Level.GOOD, "1 broker")
    only(judge_nodes([fine, fine], [BROKER]), Level.GOOD, "2 brokers")
