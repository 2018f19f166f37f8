"""One synthetic trace, sent the whole way: what was sent, and each hop with the time it took."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct
from msgspec.structs import replace

from spanferry_schemas import (
    End,
    Fragment,
    RecordFlag,
    RecordKind,
    RecordMeta,
    Span,
    StatusCode,
    TracePart,
    encode,
    trace_id_text,
    write_meta,
)
from spanferry_schemas.mlflow_keys import SPAN_INPUTS, SPAN_OUTPUTS, TAG_TRACE_NAME
from spanferry_worker.doctor.findings import Area, Finding, good, note, problem
from spanferry_worker.doctor.kafka_facts import KAFKA_S, ClusterFacts, TopicFacts, ask_cluster
from spanferry_worker.services.kafka_client import close_quietly
from spanferry_worker.services.mlflow_environment import prepare_environment

__all__ = ["EXPERIMENT", "Hops", "cross", "judge_crossing", "synthetic_trace"]

EXPERIMENT: Final = "spanferry-doctor"
"""Where the synthetic traces go, so that no other experiment has them."""

_POLL_S: Final = 0.1
_SPANS: Final = 2
_LAST_LETTERS: Final = 10
"""How far back in the dead letters to look: it is among the newest, if it is there."""


class Hops(Struct, frozen=True, kw_only=True):
    """How far the trace came. Milliseconds since the hop before; None where it was not reached."""

    trace_id: str
    acknowledged_ms: float | None = None
    visible_ms: float | None = None
    stored_ms: float | None = None
    read_ms: float | None = None
    kafka_error: str = ""
    consumed: bool = False
    """Whether a worker has committed its record, where it is not stored all the same."""
    dead: tuple[str, str] | None = None
    """Reason and message of its dead letter, if it has become one."""


def synthetic_trace(trace_id: bytes, now_ns: int) -> Fragment:
    """Two spans, a tag and the end marker: all that a worker needs to store it at once."""
    root_id, child_id = trace_id[:8], bytes(byte ^ 0xFF for byte in trace_id[:8])
    root = Span(
        root_id,
        None,
        "spanferry doctor",
        "CHAIN",
        now_ns - 2_000_000,
        now_ns,
        StatusCode.OK,
        attributes={SPAN_INPUTS: b'{"from":"doctor"}', SPAN_OUTPUTS: b'{"to":"MLflow"}'},
    )
    child = Span(
        child_id, root_id, "crossing", "TASK", now_ns - 1_500_000, now_ns - 500_000, StatusCode.OK
    )
    part = TracePart(
        experiment=EXPERIMENT,
        request_preview="spanferry doctor",
        response_preview="arrived",
        tags={TAG_TRACE_NAME: "spanferry doctor"},
    )
    return Fragment(trace_id, [root, child], part, End(_SPANS))


async def cross(
    options: Mapping[str, Any],
    facts: ClusterFacts,
    *,
    tracking_uri: str,
    timeout_s: float,
) -> Hops:
    """Send the trace as far as it gets. Never raises what Kafka or MLflow can cause.

    Without a worker in the group, or with an empty `tracking_uri`, the last hop is the topic.
    """
    assert facts.topic is not None
    clock = asyncio.get_running_loop().time
    trace_id = os.urandom(16)
    hops = Hops(trace_id=trace_id_text(trace_id))
    started = clock()
    try:
        async with asyncio.timeout(KAFKA_S):
            place, offset = await _produce(options, facts.topic.name, trace_id)
            acknowledged = clock()
            await _fetch(options, place, offset)
    except (KafkaError, OSError) as error:
        return replace(hops, kafka_error=f"{type(error).__name__}: {error}")
    visible = clock()
    hops = replace(
        hops,
        acknowledged_ms=(acknowledged - started) * 1000,
        visible_ms=(visible - acknowledged) * 1000,
    )
    if not facts.group.members or not tracking_uri:
        return hops
    while clock() < visible + timeout_s:
        asked = clock()
        if await asyncio.to_thread(_is_complete, tracking_uri, hops.trace_id):
            stored_ms, read_ms = (asked - visible) * 1000, (clock() - asked) * 1000
            return replace(hops, stored_ms=stored_ms, read_ms=read_ms)
        await asyncio.sleep(_POLL_S)
    return await _look_for_it(hops, options, facts, trace_id, (place, offset))


async def _produce(
    options: Mapping[str, Any], topic: str, trace_id: bytes
) -> tuple[TopicPartition, int]:
    """Where it went. Raises KafkaError or OSError."""
    value = encode(synthetic_trace(trace_id, time.time_ns()))
    meta = RecordMeta(
        producer_id=trace_id[:8],
        sequence=0,
        kind=RecordKind.FRAGMENT,
        flags=RecordFlag.END | RecordFlag.TRACE_PART,
        spans=_SPANS,
        size=len(value),
    )
    producer = AIOKafkaProducer(**options, acks="all", enable_idempotence=True)
    try:
        await producer.start()
        sent = await producer.send_and_wait(topic, value, key=trace_id, headers=[write_meta(meta)])
    finally:
        await close_quietly(producer.stop)
    return TopicPartition(topic, sent.partition), sent.offset


async def _fetch(options: Mapping[str, Any], place: TopicPartition, offset: int) -> None:
    """Read the record back. Raises KafkaError or OSError."""
    consumer = AIOKafkaConsumer(**options, enable_auto_commit=False)
    consumer.assign([place])
    try:
        await consumer.start()
        consumer.seek(place, offset)
        await consumer.getone(place)
    finally:
        await close_quietly(consumer.stop)


def _is_complete(tracking_uri: str, trace_id: str) -> bool:
    """Whether MLflow's API gives the trace with all of its spans. Blocking."""
    prepare_environment()
    from mlflow import MlflowClient  # noqa: PLC0415  takes a second
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        trace = MlflowClient(tracking_uri).get_trace(trace_id, display=False)
    except MlflowException:
        return False
    return len(trace.data.spans) == _SPANS


async def _look_for_it(
    hops: Hops,
    options: Mapping[str, Any],
    facts: ClusterFacts,
    trace_id: bytes,
    record: tuple[TopicPartition, int],
) -> Hops:
    """Why a worker has not stored it: not fetched, fetched but elsewhere, or dead."""
    place, offset = record
    try:
        async with asyncio.timeout(KAFKA_S):
            now = await ask_cluster(
                options, place.topic, facts.dead_letters_name, facts.group.group_id
            )
            committed = now.group.committed.get(place.partition, -1)
            dead = await _dead_letter(options, now.dead_letters, trace_id)
    except (KafkaError, OSError) as error:
        return replace(hops, kafka_error=f"{type(error).__name__}: {error}")
    return replace(hops, consumed=committed > offset, dead=dead)


async def _dead_letter(
    options: Mapping[str, Any], letters: TopicFacts | None, trace_id: bytes
) -> tuple[str, str] | None:
    """Reason and message of its dead letter, if there is one among the last."""
    if letters is None:
        return None
    places = [TopicPartition(letters.name, number) for number in range(letters.partitions)]
    consumer = AIOKafkaConsumer(**options, enable_auto_commit=False)
    consumer.assign(places)
    try:
        await consumer.start()
        for place, end in (await consumer.end_offsets(places)).items():
            consumer.seek(place, max(0, end - _LAST_LETTERS))
        fetched = await consumer.getmany(timeout_ms=1_000)
    finally:
        await close_quietly(consumer.stop)
    for record in (record for records in fetched.values() for record in records):
        if record.key == trace_id:
            said = {name: (value or b"").decode() for name, value in record.headers}
            return said.get("dlq.reason", "unknown"), said.get("dlq.message", "")
    return None


def judge_crossing(hops: Hops, *, has_worker: bool, timeout_s: float) -> Finding:
    """What the way of the trace means."""
    if hops.kafka_error:
        return problem(
            Area.CROSSING,
            f"Kafka does not take the trace: {hops.kafka_error}",
            "look at the findings above, and at what this user may write (ACLs)",
        )
    way = f"{hops.trace_id}: acknowledged {_ms(hops.acknowledged_ms)}, in the topic {_ms(hops.visible_ms)}"
    if hops.stored_ms is not None:
        text = f"{way}, in MLflow {_ms(hops.stored_ms)}, read back {_ms(hops.read_ms)}"
        return good(Area.CROSSING, f"{text}, complete")
    if not has_worker:
        return note(Area.CROSSING, f"{way}; it waits there, because no worker runs")
    waited = f"not in MLflow after {timeout_s:g} s"
    if hops.dead is not None:
        reason, message = hops.dead
        return problem(
            Area.CROSSING,
            f"{way}; it went to the dead letters ({reason}: {message})",
            "mend what the message says; dead letters can be replayed afterwards",
        )
    if hops.consumed:
        return problem(
            Area.CROSSING,
            f"{way}; a worker has taken it, but it is {waited}",
            "that worker writes to another MLflow: compare its --tracking-uri with the one given here",
        )
    return problem(
        Area.CROSSING,
        f"{way}; {waited}, and no worker has taken it",
        "look at the workers' logs and at /readyz: they may be stuck, busy with older records, or "
        "waiting for MLflow",
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"+{value:.0f} ms"
