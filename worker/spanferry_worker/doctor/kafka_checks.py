"""What facts about Kafka mean: pure functions from facts to findings."""

from collections.abc import Iterable, Mapping
from typing import Final

from spanferry_worker.doctor.findings import Area, Finding, good, note, problem
from spanferry_worker.doctor.kafka_facts import GroupFacts, Handshake, TopicFacts
from spanferry_worker.doctor.reach import Address, Reach, Reached

__all__ = [
    "ENVELOPE_BYTES",
    "judge_dead_letters",
    "judge_group",
    "judge_handshake",
    "judge_ledger",
    "judge_nodes",
    "judge_topic",
]

ENVELOPE_BYTES: Final = 1_024
"""Room for key, headers and Kafka's own framing around a record's value."""

_DAY_MS: Final = 24 * 60 * 60 * 1000
_SIGN_IN: Final = (
    "AuthenticationFailedError",
    "SaslAuthenticationFailed",
    "IllegalSaslStateError",
)
_MECHANISM: Final = ("UnsupportedSaslMechanismError", "AuthenticationMethodNotSupported")
_CERTIFICATE: Final = ("SSLCertVerificationError", "SSLError")


def judge_handshake(result: Handshake, security_protocol: str) -> Finding:
    """Whether a broker speaks Kafka with us."""
    if result.error is None:
        return good(Area.BROKER, f"{result.address} speaks Kafka ({security_protocol})")
    kind, text = result.error
    where = f"{result.address} accepts the connection"
    if kind in _SIGN_IN:
        return problem(
            Area.BROKER,
            f"{result.address} refuses user name or password",
            "correct kafka.sasl_username and kafka.sasl_password, and kafka.sasl_mechanism",
        )
    if kind in _MECHANISM:
        return problem(
            Area.BROKER,
            f"{result.address} does not take this SASL mechanism: {text}",
            "set kafka.sasl_mechanism to one that the broker has enabled",
        )
    if kind in _CERTIFICATE:
        return problem(
            Area.BROKER,
            f"{where}, but its certificate is not accepted: {text}",
            "set kafka.ssl_ca_file to the authority that signed the broker's certificate; where it "
            "is no TLS port at all set kafka.security_protocol to PLAINTEXT or SASL_PLAINTEXT",
        )
    return problem(
        Area.BROKER,
        f"{where}, but does not speak Kafka over {security_protocol} ({kind})",
        "set kafka.security_protocol to what that listener expects (PLAINTEXT, SSL, "
        "SASL_PLAINTEXT, SASL_SSL), or correct the port: something else may listen there",
    )


def judge_nodes(nodes: Iterable[Reach], asked: Iterable[Address]) -> list[Finding]:
    """Whether the addresses that the brokers announce can be reached from here as well."""
    results = list(nodes)
    lost = [result for result in results if result.reached is not Reached.CONNECTED]
    if not lost:
        count = "1 broker" if len(results) == 1 else f"{len(results)} brokers"
        return [good(Area.BROKER, f"{count} in the cluster, reachable")]
    known = ", ".join(map(str, asked))
    return [
        problem(
            Area.BROKER,
            f"{known} answers, but announces itself as {result.address}, which cannot be reached "
            f"from here ({result.reached})",
            "set the broker's advertised.listeners to an address that apps and workers can reach",
        )
        for result in lost
    ]


def judge_topic(
    topic: TopicFacts | None, name: str, *, workers: int, record_bytes_max: int
) -> list[Finding]:
    """Whether the traces' topic is there and fit for them. `workers`: processes that share it."""
    if topic is None:
        return [
            problem(
                Area.TOPIC,
                f"topic {name!r} does not exist",
                "spanferry topics create (or let whoever owns the cluster create it)",
            )
        ]
    found = [
        *_judge_partitions(topic, workers),
        *_judge_size(topic, record_bytes_max),
        *_judge_retention(topic),
    ]
    return found or [good(Area.TOPIC, _describe(topic))]


def _describe(topic: TopicFacts) -> str:
    parts = [f"{topic.name}: {topic.partitions} partitions"]
    size = _number(topic.config, "max.message.bytes")
    if size is not None:
        parts.append(f"records up to {size:,} bytes")
    retention_ms = _number(topic.config, "retention.ms")
    if retention_ms is not None:
        kept = "for ever" if retention_ms < 0 else f"{retention_ms / _DAY_MS:g} days"
        parts.append(f"kept {kept}")
    return ", ".join(parts)


def _judge_partitions(topic: TopicFacts, workers: int) -> Iterable[Finding]:
    if topic.leaderless:
        yield problem(
            Area.TOPIC,
            f"{topic.leaderless} of {topic.partitions} partitions of {topic.name} have no leader",
            "bring the brokers back that hold them: until then their traces wait in the apps",
        )
    if topic.partitions < workers:
        yield problem(
            Area.TOPIC,
            f"{topic.name} has {topic.partitions} partitions for {workers} worker processes: "
            f"{workers - topic.partitions} of them get nothing to do",
            f"kafka-topics.sh --alter --topic {topic.name} --partitions {workers * 2}, "
            "or fewer processes",
        )


def _judge_size(topic: TopicFacts, record_bytes_max: int) -> Iterable[Finding]:
    size, wanted = _number(topic.config, "max.message.bytes"), record_bytes_max + ENVELOPE_BYTES
    if size is None:
        yield note(
            Area.TOPIC,
            f"the broker does not tell the settings of {topic.name}",
            f"make sure that max.message.bytes is at least {wanted}",
        )
    elif size < wanted:
        yield problem(
            Area.TOPIC,
            f"{topic.name} refuses records above {size:,} bytes (max.message.bytes), but the apps "
            f"send up to {record_bytes_max:,} (record_bytes_max): large traces will be dropped",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} --add-config "
            f"max.message.bytes={wanted}, or in the apps "
            f"SPANFERRY_RECORD_BYTES_MAX={max(size - ENVELOPE_BYTES, 0)}",
        )


def _judge_retention(topic: TopicFacts) -> Iterable[Finding]:
    if "compact" in topic.config.get("cleanup.policy", ""):
        yield problem(
            Area.TOPIC,
            f"{topic.name} is compacted: of the records of one trace only the last would stay",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} --add-config "
            "cleanup.policy=delete",
        )
    retention_ms = _number(topic.config, "retention.ms")
    if retention_ms is not None and 0 <= retention_ms < _DAY_MS:
        yield note(
            Area.TOPIC,
            f"{topic.name} keeps records for {retention_ms / 3_600_000:g} hours only: traces that "
            "no worker has fetched by then are gone",
            "raise retention.ms above the longest time that MLflow or the workers may be away",
        )


def judge_dead_letters(letters: TopicFacts | None, name: str, topic: TopicFacts | None) -> Finding:
    """Whether records that cannot be stored have somewhere to go."""
    if letters is None:
        return note(
            Area.DEAD_LETTERS,
            f"topic {name!r} does not exist",
            "a worker makes it when it starts, if it may; spanferry topics create makes it now",
        )
    size = _number(letters.config, "max.message.bytes")
    wanted = _number(topic.config, "max.message.bytes") if topic else None
    if size is not None and wanted is not None and size < wanted:
        return problem(
            Area.DEAD_LETTERS,
            f"{name} takes {size:,} bytes, {topic.name if topic else ''} up to {wanted:,}: a large "
            "broken record would not fit",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config "
            f"max.message.bytes={wanted + 65_536}",
        )
    return good(Area.DEAD_LETTERS, f"{name} is there")


def judge_ledger(ledger: TopicFacts | None, name: str, *, enabled: bool) -> Finding:
    """Whether the account of every record outlives the workers."""
    if not enabled:
        return good(Area.LEDGER, "no ledger is kept, as ledger.enabled=false asks for")
    if ledger is None:
        return note(
            Area.LEDGER,
            f"topic {name!r} does not exist: workers forget their accounts when they end",
            "a worker makes it when it starts, if it may; spanferry topics create makes it now",
        )
    policy = ledger.config.get("cleanup.policy", "compact")
    if "compact" not in policy:
        return problem(
            Area.LEDGER,
            f"{name} is not compacted (cleanup.policy={policy}): accounts are lost with its retention",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config "
            "cleanup.policy=compact",
        )
    return good(Area.LEDGER, f"{name} is there, compacted")


def judge_group(group: GroupFacts, topic: TopicFacts | None) -> list[Finding]:
    """Whether workers run, keep up, and have not come too late."""
    if topic is None:
        return []
    found: list[Finding] = []
    lost = sum(
        max(0, group.start.get(partition, 0) - offset)
        for partition, offset in group.committed.items()
    )
    if lost:
        found.append(
            problem(
                Area.GROUP,
                f"{lost:,} records were removed by Kafka before group {group.group_id!r} had "
                "stored them",
                "raise retention.ms and retention.bytes of the topic, and keep workers running",
            )
        )
    lag = sum(
        end - group.committed.get(partition, group.start.get(partition, 0))
        for partition, end in group.end.items()
    )
    if not group.members:
        found.append(
            problem(
                Area.GROUP,
                f"no worker runs in group {group.group_id!r}; {lag:,} records wait",
                "start one: spanferry worker --bootstrap-servers … --tracking-uri …",
            )
        )
    elif not found:
        count = "1 worker process" if group.members == 1 else f"{group.members} worker processes"
        state = "" if group.state == "Stable" else f" ({group.state})"
        found.append(good(Area.GROUP, f"{count} in group {group.group_id}{state}, lag {lag:,}"))
    return found


def _number(config: Mapping[str, str], name: str) -> int | None:
    text = config.get(name, "")
    return int(text) if text.lstrip("-").isdecimal() else None
