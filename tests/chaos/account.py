"""Every trace that producers have promised is looked up through MLflow's API, and counted."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from mlflow import MlflowClient
from mlflow.entities import Trace
from msgspec import Struct

from spanferry_schemas import Rejection, decode, read_meta
from tests.chaos.journal import Life
from tests.chaos.scene import Scene
from tests.chaos.traces import SAMPLED_TAG, Expected, expected, payload

__all__ = ["Account", "KafkaCount", "LedgerTotals", "count_kafka", "ledger_totals", "take_stock"]

PAGE = 200
ALONE_MAX = 5_000
PROCESSES = 3
SLICES = 11
SHOWN = 20
FEEDBACK = "grade"


class Account(Struct, kw_only=True):
    """What was made, and what is there. Numbers are of traces unless a name says otherwise."""

    made: int = 0
    """Begun by any producer, the killed ones' last included."""
    promised: int = 0
    """Of those that were in Kafka or on disk whole before their producer ended, however."""
    stored: int = 0
    """Of the promised: there once and whole, each span with its own payload, each judgement once."""
    spans: int = 0
    """Of the promised traces."""
    judgements: int = 0
    """Of the promised traces."""
    payload_bytes: int = 0
    """Compared, of all spans."""
    lost: int = 0
    """Promised, and not there or not whole."""
    doubled: int = 0
    """There twice, or with a span or a judgement twice."""
    unknown: int = 0
    """There, and made by nobody."""
    dropped: int = 0
    """Of which a full buffer has dropped something, as the app has counted."""
    dropped_parcels: int = 0
    """What was dropped of them."""
    dropped_partly: int = 0
    """Of those, there all the same: what was dropped was a judgement, or the end of a long trace."""
    sampled: int = 0
    """Promised, and for the rule that drops."""
    kept: int = 0
    """There, though that rule drops them."""
    unpromised: int = 0
    """Made and not promised: kill -9 came before the sender had looked at them. The documented loss."""
    unpromised_stored: int = 0
    """Of those, there all the same and whole."""
    unpromised_partly: int = 0
    """Of those, there in part."""
    wrong: list[str] = []
    """The first few of what is lost, doubled or unknown, in words."""

    def say(self, what: str) -> None:
        """Keep it, if there are not too many."""
        if len(self.wrong) < SHOWN:
            self.wrong.append(what)


class LedgerTotals(Struct, kw_only=True):
    """What `spanferry ledger` says in the end, in records."""

    adds_up: bool
    produced: int
    stored: int
    sampled: int
    dead_lettered: int
    in_flight: int
    dropped: int
    missing: int
    settled: int
    unaccounted: int
    repeated: int


class KafkaCount(Struct, kw_only=True):
    """The traces' topic, read from its beginning by somebody else than a worker."""

    records: int
    """With a number of their own: producer, partition and sequence."""
    repeated: int
    """That came again under the same number."""
    junk: int = 0
    """Without a number, and no event: nobody can read them."""
    sampled: int = 0
    """Of those with a number, records of traces that the rule drops."""


class Look(Struct, kw_only=True):
    """One trace, as MLflow shows it."""

    trace_id: str
    number: int | None
    wrong: str
    """Nothing where it is as it was made."""


def take_stock(scene: Scene, lives: Iterable[Life]) -> Account:
    """Compare what the journals say with what MLflow shows."""
    account = Account()
    made: dict[int, str] = {}
    promised: set[int] = set()
    dropped: dict[int, int] = {}
    for life in lives:
        made |= life.made
        promised |= life.promised
        dropped |= life.dropped
        account.dropped_parcels += life.dropped_late
    account.made, account.promised, account.dropped = len(made), len(promised), len(dropped)
    account.dropped_parcels += sum(dropped.values())
    account.unpromised = len(made) - len(promised) - len(dropped)
    sampled = {one for one in made if scene.plan.all_outcomes and expected(one).sampled}
    account.sampled = len(promised & sampled)
    seen: Counter[int] = Counter()
    for look in _looks(scene, len(made)):
        number = look.number
        if number is None or made.get(number) != look.trace_id:
            account.unknown += 1
            account.say(f"unknown: {look.trace_id}, number {number}")
            continue
        seen[number] += 1
        if seen[number] > 1:
            look.wrong = "there twice"
        if number in sampled:
            account.kept += 1
            account.say(f"kept: number {number}, {look.trace_id}")
        elif number in dropped and "twice" not in look.wrong:
            account.dropped_partly += 1
        else:
            _count(account, number, look, is_promised=number in promised)
    for number in sorted(promised - sampled - seen.keys()):
        account.lost += 1
        account.say(f"lost: number {number}, {made[number]}")
    return account


def _count(account: Account, number: int, look: Look, *, is_promised: bool) -> None:
    wrong = look.wrong
    if "twice" in wrong:
        account.doubled += 1
        account.say(f"doubled: number {number}, {look.trace_id}: {wrong}")
    elif not is_promised:
        account.unpromised_stored += not wrong
        account.unpromised_partly += bool(wrong)
    elif wrong:
        account.lost += 1
        account.say(f"lost: number {number}, {look.trace_id}: {wrong}")
    else:
        one = expected(number)
        account.stored += 1
        account.spans += len(one.spans)
        account.judgements += one.feedback is not None
        account.payload_bytes += sum(one.sizes)


def _looks(scene: Scene, count: int) -> Iterator[Look]:
    """Every trace of the experiment, whenever it was; nothing is written meanwhile. Many are looked at
    by several processes, each in slices of time of its own."""
    look = partial(_look, scene.tracking_uri, scene.experiment)
    if count <= ALONE_MAX:
        yield from look(("", ""))
        return
    now_ms = time.time_ns() // 1_000_000
    bounds = [now_ms - int(scene.age_s * 1000 * part / SLICES) for part in range(SLICES, -1, -1)]
    texts = ["", *map(str, bounds), ""]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for looks in pool.map(look, pairwise(texts)):
            yield from looks


def _look(tracking_uri: str, experiment: str, between: tuple[str, str]) -> list[Look]:
    """Those that began at or after the one moment and before the other, page by page."""
    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    words = [
        f"timestamp_ms {sign} {at}" for sign, at in zip((">=", "<"), between, strict=True) if at
    ]
    looks: list[Look] = []
    token = None
    while found is not None:
        page = client.search_traces(
            locations=[found.experiment_id],
            filter_string=" AND ".join(words) or None,
            include_spans=True,
            max_results=PAGE,
            page_token=token,
        )
        for trace in page:
            number = _number(trace)
            wrong = "" if number is None else _what_is_wrong(trace, expected(number))
            looks.append(Look(trace_id=trace.info.trace_id, number=number, wrong=wrong))
        token = page.token
        if not token:
            break
    return looks


def _number(trace: Trace) -> int | None:
    text = trace.info.tags.get("number", trace.info.client_request_id or "").removeprefix("chaos-")
    if text.isdigit():
        return int(text)
    for span in trace.data.spans:  # of a trace whose end has never come
        if isinstance(span.inputs, dict) and "number" in span.inputs:
            return int(span.inputs["number"])
    return None


def _what_is_wrong(trace: Trace, one: Expected) -> str:
    """Nothing where all is as it was made."""
    return _wrong_spans(trace, one) or _wrong_judgements(trace, one)


def _wrong_spans(trace: Trace, one: Expected) -> str:
    names = Counter(span.name for span in trace.data.spans)
    if any(count > 1 for count in names.values()):
        return f"a span twice: {dict(names)}"
    missing = set(one.spans) ^ names.keys()
    if missing:
        return f"spans {sorted(missing)[:5]}"
    spans = {span.name: span for span in trace.data.spans}
    root = spans[one.spans[0]]
    for index, (name, size) in enumerate(zip(one.spans, one.sizes, strict=True)):
        span = spans[name]
        if span.parent_id != (root.span_id if index else None):
            return f"parent of {name}"
        if span.inputs != payload(one.number, index, size):
            return f"inputs of {name}"
    return ""


def _wrong_judgements(trace: Trace, one: Expected) -> str:
    info = trace.info
    if info.state.value != "OK" or info.client_request_id != f"chaos-{one.number}":
        return f"state {info.state.value}, request {info.client_request_id}"
    given = [each.value for each in info.assessments if each.name == FEEDBACK]
    if len(given) > (one.feedback is not None):
        return f"{len(given)} judgements: one is there twice"
    return "" if given == ([one.feedback.value] if one.feedback else []) else f"judged {given}"


def ledger_totals(scene: Scene) -> LedgerTotals:
    """Ask `spanferry ledger`."""
    said: dict[str, Any] = json.loads(scene.spanferry("ledger", "--json", codes=(0, 1)))
    names = [name for name in LedgerTotals.__struct_fields__ if name != "adds_up"]
    return LedgerTotals(adds_up=said["adds_up"], **{name: said["totals"][name] for name in names})


def count_kafka(scene: Scene) -> KafkaCount:
    """What lies in the traces' topic, by the header of each record."""
    return asyncio.run(_count_kafka(scene.kafka.bootstrap_servers, scene.topic))


async def _count_kafka(bootstrap_servers: str, topic: str) -> KafkaCount:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=2**22,
    )
    names: set[tuple[int, bytes, int]] = set()
    by_key: Counter[bytes | None] = Counter()
    tagged: set[bytes | None] = set()
    repeated = junk = 0
    async with consumer:
        await consumer._client._wait_on_metadata(topic)
        places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(one) < ends[one] for one in places]):
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    meta = read_meta(record.headers)
                    if meta is None:  # a producer's report, or nothing at all
                        junk += isinstance(decode(record.value), Rejection)
                        continue
                    name = (place.partition, meta.producer_id, meta.sequence)
                    if name in names:
                        repeated += 1
                        continue
                    names.add(name)
                    by_key[record.key] += 1
                    if SAMPLED_TAG.encode() in record.value:
                        tagged.add(record.key)
    sampled = sum(by_key[key] for key in tagged)
    return KafkaCount(records=len(names), repeated=repeated, junk=junk, sampled=sampled)
