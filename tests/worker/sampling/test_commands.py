"""The commands against Apache Kafka and MLflow's SQLite store: what is found, shown, compared, restored."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from msgspec.structs import replace

from spanferry_schemas import End, Event, Fragment, encode, split_value, trace_id_text
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker import cli
from spanferry_worker.services.kafka_scan import partition_of
from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    Rule,
    Sampler,
    SamplingPolicy,
    SlowLimits,
    Table,
    bucket_of,
    encode_event,
    event_key,
)
from tests.services.kafka import KafkaServer
from tests.services.mlflow_tables import copy_tables
from tests.sinks.stores import dump
from tests.worker.events import T0_MS, assembled, feedback, fragment, header, number, span, whole

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

PARTITIONS = 3
POLICY = """
[[sample.rules]]
name = "failed"
error = true
action = "keep"
[[sample.rules]]
name = "big"
bytes_min = 20000
action = "drop"
[sample.shadow]
target_bytes = 0
"""


class Desk(NamedTuple):
    """A topic of one's own, an MLflow of one's own, and the command line before both."""

    address: str
    topic: str
    uri: str
    folder: Path
    capsys: pytest.CaptureFixture[str]

    async def send(self, events: Sequence[Event], *, at_ms: int | None = None) -> None:
        """As an app does, with Kafka's partitioner."""
        producer = AIOKafkaProducer(bootstrap_servers=self.address)
        await producer.start()
        for event in events:
            key = event.trace_id
            assert key is not None
            values = split_value(
                encode(event),
                trace_id=key,
                group_id=uuid.uuid4().bytes[:8],
                record_bytes_max=50_000,
            )
            for value in values:
                await producer.send_and_wait(
                    self.topic, value, key, headers=[header()], timestamp_ms=at_ms
                )
        await producer.stop()

    async def tell_fleet(self, *events: SlowLimits | Table) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.address)
        await producer.start()
        for event in events:
            await producer.send_and_wait(
                f"{self.topic}.sampling", encode_event(event), event_key(event)
            )
        await producer.stop()

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and complaints of a command."""
        self.capsys.readouterr()
        where = [f"--bootstrap-servers={self.address}", f"--topic={self.topic}"]
        if words[0] == "undrop":
            where.append(f"--tracking-uri={self.uri}")
        code = await asyncio.to_thread(cli.main, [*words, *where])
        out, err = self.capsys.readouterr()
        return code, out, err

    def policy(self, text: str = POLICY, name: str = "policy") -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(text)
        return str(path)


@pytest.fixture
def desk(kafka: KafkaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    topic = f"sampling-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(topic, PARTITIONS)
    uri = copy_tables(tmp_path / "mlflow.db", str(tmp_path / "artifacts"))
    return Desk(kafka.bootstrap_servers, topic, uri, tmp_path, capsys)


async def test_explain_finds_a_trace_among_others_and_shows_both_policies(desk: Desk):
    await desk.send([whole(n) for n in range(1, 8)])
    await desk.send([whole(100, payload=60_000), feedback(1, 100)])
    trace_id = trace_id_text(number(100))
    code, out, _ = await desk.run("sampling", "explain", trace_id, f"--policy={desk.policy()}")
    assert code == 0
    lines = out.splitlines()
    place = partition_of(number(100), PARTITIONS)
    # Three spans of 60 KB in records of 50 KB at most, and feedback.
    assert lines[0].startswith(f"{trace_id}: 5 records in partition {place}, ")
    assert "  2. big (drop): matches, and decides" in lines
    assert '  it is dropped, by rule "big" (drop)' in lines
    shadow = lines.index("policy shadow, without effect:")
    assert "  it is stored whole, by no rule (no_rule)" in lines[shadow:]
    code, out, _ = await desk.run("sampling", "explain", trace_id[:-3], "--json")
    assert code == 1  # the numbers' first digits are the same
    code, out, _ = await desk.run("sampling", "explain", trace_id, "--json")
    found = json.loads(out)
    assert (found["records"], found["traits"]["spans"]) == (5, 3)
    # By the default policy of the settings: no fleet has spoken.
    assert ["is slow" in one for one in found["policies"][0]["unknown"]] == [True]


async def test_explain_reads_the_fleets_table(desk: Desk, kafka: KafkaServer):
    kafka.create_topic(f"{desk.topic}.sampling", 1)
    bucket = bucket_of(T0_MS + 5)
    await desk.tell_fleet(
        SlowLimits(7, {"span-1": 0.001}),
        Table(bucket, {"live": 5.0}, 7, author="a"),
        Table(bucket, {"live": 9.0}, 7, author="b"),
    )
    await desk.send([whole(1)])
    code, out, _ = await desk.run("sampling", "explain", trace_id_text(number(1)))
    assert code == 0
    assert "  3. slow (keep): matches, and decides" in out
    assert "it took 0.005 s, the limit is 0.001 s" in out


async def test_what_is_not_there_is_said(desk: Desk, kafka: KafkaServer):
    await desk.send([whole(1), whole(2)])
    missing = trace_id_text(number(99))
    place = partition_of(number(99), PARTITIONS)
    code, _, err = await desk.run("sampling", "explain", missing)
    assert code == 1
    assert f"no record of {missing} in {desk.topic}, partition {place}, " in err
    code, _, err = await desk.run("sampling", "explain", missing, "--everywhere")
    assert "3 partitions, whose records are retained since 20" in err
    code, _, err = await desk.run("undrop", "tr-000000", "--yes")
    assert code == 1
    assert "fits more than one trace" in err
    mine = partition_of(number(1), PARTITIONS)
    await forget(desk, mine)
    code, _, err = await desk.run("undrop", trace_id_text(number(1)), "--yes")
    assert code == 1
    assert "which holds no records at all" in err
    code, _, err = await desk._replace(topic="absent").run("sampling", "explain", missing)
    assert code == 1
    assert "the topic absent does not exist" in err
    with pytest.raises(SystemExit, match="2"):
        await desk.run("undrop", "tr-xyz")


async def forget(desk: Desk, partition: int) -> None:
    """As retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=desk.address)
    await admin.start()
    place = TopicPartition(desk.topic, partition)
    await admin.delete_records({place: RecordsToDelete(before_offset=-1)})
    await admin.close()


async def test_simulate_compares_policies_on_what_is_retained(desk: Desk):
    await desk.send([whole(n, payload=30_000 if n % 4 == 0 else 100) for n in range(1, 41)])
    await desk.send([fragment(50, [span(9, parent=1)])])
    policy = desk.policy()
    picture, page = desk.folder / "it.svg", desk.folder / "it.html"
    code, out, _ = await desk.run(
        "sampling", "simulate", policy, "current", f"--svg={picture}", f"--html={page}"
    )
    assert code == 0
    assert "40 traces (" in out
    assert "1 traces were incomplete at the borders and are left out" in out
    assert "policy current" in out
    assert picture.read_text().startswith("<svg")
    assert "policy" in page.read_text()
    code, out, _ = await desk.run("sampling", "simulate", policy, "--json")
    rules = json.loads(out)["policies"]["policy"]["rules"]
    assert (rules["big"]["dropped"], rules["none"]["full"]) == (10, 30)
    assert rules["big"]["bytes_in"] > 10 * 90_000
    code, out, _ = await desk.run("sampling", "simulate", policy, "--json", "--traces-max=7")
    assert json.loads(out)["traces"] == 7
    code, out, _ = await desk.run("sampling", "simulate", policy, "--since=2999-01-01")
    assert code == 1
    assert "no trace to decide on" in out


async def store(desk: Desk, event: Fragment, *, action: Action) -> None:
    """As a worker with such a rule does."""
    sampler = Sampler(SamplingPolicy(rules=[Rule(name="all", action=action)]))
    trace = replace(assembled(), trace_id=event.trace_id, spans=event.spans, trace=event.trace)
    kept = sampler.apply(trace, sampler.decide(trace, NO_TABLE)).trace
    assert kept is not None
    sink = open_sink(desk.uri, default_experiment="Default")
    await sink.open()
    await sink.write([kept])
    await sink.close()


def read(desk: Desk, trace_id: int) -> Any:
    mlflow.set_tracking_uri(desk.uri)
    return mlflow.get_trace(trace_id_text(number(trace_id)))


async def test_undrop_restores_what_was_cut_and_what_was_dropped(desk: Desk):
    cut, dropped, kept = (whole(n, payload=40_000) for n in (1, 2, 3))
    unfinished = fragment(4, [span(1)], end=End(2))
    await desk.send([cut, dropped, kept, unfinished])
    await store(desk, cut, action=Action.SKELETON)
    await store(desk, kept, action=Action.KEEP)
    before = await asyncio.to_thread(read, desk, 1)
    assert len(before.data.spans[0].inputs) < 2_000
    ids = [trace_id_text(number(n)) for n in (1, 2, 3, 4)]

    code, out, err = await desk.run("undrop", *ids)
    assert (code, out) == (2, "")
    assert "add --yes or --dry-run" in err
    code, out, _ = await desk.run("undrop", *ids, "--dry-run")
    assert code == 1
    assert out.splitlines() == [
        f"{ids[0]}: stored as a skeleton, to be stored whole: 3 spans, 120.4 KB",
        f"{ids[1]}: not stored, to be stored whole: 3 spans, 120.4 KB",
        f"{ids[2]}: stored whole already, nothing to do",
        f"{ids[3]}: not finished: a worker still waits for more of it, and has dropped nothing",
    ]
    assert await asyncio.to_thread(read, desk, 2) is None

    code, out, _ = await desk.run("undrop", *ids[:3], "--yes")
    assert code == 0
    assert out.splitlines()[-1] == "2 traces are whole in MLflow now"
    for trace_id in (1, 2):
        trace = await asyncio.to_thread(read, desk, trace_id)
        assert [one.inputs for one in trace.data.spans] == ["x" * 40_000] * 3
        assert not any(CUT_ATTRIBUTE in one.attributes for one in trace.data.spans)
    found = await asyncio.to_thread(search, desk)
    assert sorted(trace.info.trace_id for trace in found) == ids[:2]
    assert {trace.info.trace_metadata["spanferry.sampling.restored"] for trace in found} == {
        "drop",
        "skeleton",
    }
    assert all(len(trace.data.spans) == 3 for trace in found)

    once = dump(desk.uri)
    code, out, _ = await desk.run("undrop", *ids[:2], "--yes")
    assert code == 0
    assert out.splitlines() == [f"{one}: stored whole already, nothing to do" for one in ids[:2]]
    assert dump(desk.uri) == once


def search(desk: Desk) -> Any:
    mlflow.set_tracking_uri(desk.uri)
    experiment = mlflow.get_experiment_by_name("shop")
    return mlflow.search_traces(
        locations=[experiment.experiment_id],
        filter_string="metadata.`spanferry.sampling.reason` = 'restored'",
        return_type="list",
    )


async def test_undrop_stores_what_is_left_of_a_trace_only_when_told_to(desk: Desk):
    long_ago_ms = T0_MS
    await desk.send([fragment(4, [span(1)], end=End(2))], at_ms=long_ago_ms)
    trace_id = trace_id_text(number(4))
    code, out, _ = await desk.run("undrop", trace_id, "--yes")
    assert (code, out) == (
        1,
        f"{trace_id}: spans of it are missing in Kafka: give --incomplete to store what is there\n",
    )
    assert (await desk.run("undrop", trace_id, "--yes", "--incomplete"))[0] == 0
    sink = open_sink(desk.uri, default_experiment="Default")
    await sink.open()
    stored = await sink.marks([number(4)])
    await sink.close()
    assert stored[number(4)]["spanferry.sampling.outcome"] == "full"
