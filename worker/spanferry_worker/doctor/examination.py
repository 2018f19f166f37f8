"""The whole examination, along the way of a trace; what depends on something broken is left out."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import KafkaError

from spanferry_schemas.security import SECRETS
from spanferry_worker.doctor.crossing import cross, judge_crossing
from spanferry_worker.doctor.findings import Area, Finding, Level, healthy, mask, note, problem
from spanferry_worker.doctor.kafka_checks import (
    judge_dead_letters,
    judge_group,
    judge_handshake,
    judge_ledger,
    judge_nodes,
    judge_topic,
)
from spanferry_worker.doctor.kafka_facts import (
    KAFKA_S,
    ClusterFacts,
    ask_cluster,
    client_options,
    shake_hands,
)
from spanferry_worker.doctor.mlflow_checks import check_mlflow
from spanferry_worker.doctor.reach import Address, judge_reach, parse_servers, reach
from spanferry_worker.errors import SettingsError
from spanferry_worker.settings import KafkaSettings, Settings

__all__ = ["examine"]


async def examine(
    settings: Settings, *, record_bytes_max: int, connect_s: float, crossing_s: float
) -> list[Finding]:
    """Everything there is to say. Never raises what the network, Kafka or MLflow can cause."""
    found: list[Finding] = []
    facts: ClusterFacts | None = None
    options: Mapping[str, Any] = {}
    try:
        options = client_options(settings.kafka, connect_s)
        found += await _check_broker(settings.kafka, options, connect_s)
    except SettingsError as error:
        found.append(problem(Area.SETTINGS, str(error), "correct or remove it"))
    if healthy(found):
        facts, more = await _check_cluster(settings, options, record_bytes_max, connect_s)
        found += more
    mlflow = await _check_mlflow(settings, connect_s)
    found += mlflow
    if facts is not None and facts.topic is not None:
        well = all(finding.level is Level.GOOD for finding in mlflow)
        uri = settings.mlflow.tracking_uri if well else ""
        hops = await cross(options, facts, tracking_uri=uri, timeout_s=crossing_s)
        has_worker = facts.group.members > 0
        if well or hops.kafka_error or not has_worker:
            found.append(judge_crossing(hops, has_worker=has_worker, timeout_s=crossing_s))
        else:
            found.append(
                note(Area.CROSSING, "the trace is in the topic; MLflow is not asked for it")
            )
    return [mask(finding, _secrets(settings.kafka)) for finding in found]


async def _check_broker(
    settings: KafkaSettings, options: Mapping[str, Any], connect_s: float
) -> list[Finding]:
    """One broker that speaks with us is enough; the others are told of only where none does."""
    if not settings.bootstrap_servers.strip():
        return [
            problem(
                Area.SETTINGS,
                "kafka.bootstrap_servers is not set",
                "give --bootstrap-servers host:9092, or set SPANFERRY_BOOTSTRAP_SERVERS",
            )
        ]
    addresses, wrong = parse_servers(settings.bootstrap_servers)
    found = [
        problem(Area.SETTINGS, f"{piece!r} is no address of a broker", "write it as host:9092")
        for piece in wrong
    ]
    lost: list[Finding] = []
    for address in addresses:
        finding = await _greet(address, settings, options, connect_s)
        if finding.level is Level.GOOD:
            others = [note(Area.BROKER, each.text, each.remedy) for each in lost]
            return [*found, *others, finding]
        lost.append(finding)
    return found + lost


async def _greet(
    address: Address, settings: KafkaSettings, options: Mapping[str, Any], connect_s: float
) -> Finding:
    reached = judge_reach(await reach(address, connect_s), Area.BROKER, "the broker")
    if reached.level is not Level.GOOD:
        return reached
    return judge_handshake(await shake_hands(address, options), settings.security_protocol)


async def _check_cluster(
    settings: Settings, options: Mapping[str, Any], record_bytes_max: int, connect_s: float
) -> tuple[ClusterFacts | None, list[Finding]]:
    kafka = settings.kafka
    asked, _ = parse_servers(kafka.bootstrap_servers)
    try:
        async with asyncio.timeout(KAFKA_S):
            facts = await ask_cluster(
                options,
                kafka.topic,
                settings.dead_letter_topic,
                kafka.group,
                settings.ledger_topic,
            )
    except (KafkaError, OSError) as error:
        return None, [
            problem(
                Area.BROKER,
                f"the cluster does not answer: {type(error).__name__}: {error}",
                "look at the broker's log; where it announces an address that is not known here, "
                "set its advertised.listeners",
            )
        ]
    nodes = judge_nodes([await reach(node, connect_s) for node in facts.nodes], asked)
    workers = max(facts.group.members, settings.process.processes)
    found = [
        *nodes,
        *judge_topic(facts.topic, kafka.topic, workers=workers, record_bytes_max=record_bytes_max),
        judge_dead_letters(facts.dead_letters, settings.dead_letter_topic, facts.topic),
        judge_ledger(facts.ledger, settings.ledger_topic, enabled=settings.ledger.enabled),
        *judge_group(facts.group, facts.topic),
    ]
    return (facts if healthy(nodes) else None), found


async def _check_mlflow(settings: Settings, connect_s: float) -> list[Finding]:
    if not settings.mlflow.tracking_uri:
        return [
            problem(
                Area.SETTINGS,
                "mlflow.tracking_uri is not set",
                "give --tracking-uri postgresql://… or http://…, or set MLFLOW_TRACKING_URI",
            )
        ]
    return await check_mlflow(settings.mlflow, connect_s, settings.http, settings.archive)


def _secrets(kafka: KafkaSettings) -> list[str | None]:
    return [getattr(kafka, name) for name in SECRETS]
