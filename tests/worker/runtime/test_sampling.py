"""Sampling in a running worker: waiting for the fleet, agreeing, following, shadowing, reloading."""

import asyncio
from pathlib import Path

import pytest

from spanferry_schemas import Assessment, AssessmentKind, Fragment, TracePart
from spanferry_worker.errors import SettingsError
from spanferry_worker.runtime import decider, fleet
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.runtime.policy_file import PolicyFile, SettingsSource
from spanferry_worker.settings import Settings, load_settings
from spanferry_worker.stages.sample import Outcome, Table, decode_event, read_outcome
from spanferry_worker.testing import MemoryFleet, MemoryFleetTopic
from tests.worker.events import End, fragment, number, send, span
from tests.worker.runtime.harness import Harness, sample, until

BUDGET = {"sample__budget_bytes_s": 2_000, "sample__rules": [{"name": "rest", "action": "budget"}]}


def rule(**fields: object) -> dict[str, object]:
    return {"sample__rules": [{"name": "it", **fields}]}


def trace(index: int, payload: int = 10) -> Fragment:
    return fragment(
        index, [span(1, payload=payload)], end=End(1), part=TracePart(experiment="shop")
    )


def outcome(harness: Harness, index: int) -> Outcome | None:
    stored = harness.sink.stored.get(number(index))
    return None if stored is None else read_outcome(stored.trace.metadata)


def with_fleet(harness: Harness, topic: MemoryFleetTopic) -> Pipeline:
    return harness.pipeline(fleet=MemoryFleet(topic))


async def test_dropped_traces_are_decided_and_committed_and_skeletons_are_stored():
    harness = Harness(**rule(action="drop", bytes_max=500))
    for index in range(1, 41):
        send(harness.broker, trace(index, payload=10 if index % 2 else 5_000))
    async with harness.running() as worker:
        await until(harness.all_committed)
        assert len(harness.sink.stored) == 20
        labels = {"outcome": "drop", "rule": "it", "reason": "drop"}
        assert sample(worker, "sample_decisions_total", **labels) == 20


async def test_traces_wait_for_the_fleets_table_and_all_workers_have_the_same():
    topic = MemoryFleetTopic()
    harness = Harness(partitions=4, **BUDGET)
    first, second = with_fleet(harness, topic), with_fleet(harness, topic)
    async with harness.running(first), harness.running(second):
        for index in range(1, 201):
            send(harness.broker, trace(index, payload=4_000))
        await until(harness.all_committed)
        await until(lambda: len(harness.sink.stored) == 200)
        assert sample(first, "sample_unsettled_total") == 0
        assert first.intake.decider.held_bytes == second.intake.decider.held_bytes == 0
        tables = [
            e for e in map(decode_event, (v for _, v in topic.records)) if isinstance(e, Table)
        ]
        for table in tables:
            known = [w.intake.decider.fleet.table(table.bucket) for w in (first, second)]
            assert known[0] == known[1]
    assert tables


async def test_a_budget_is_learnt_and_a_replay_decides_the_same():
    topic = MemoryFleetTopic()
    harness = Harness(partitions=1, **BUDGET)
    async with harness.running(with_fleet(harness, topic)):
        for index in range(1, 601):
            send(harness.broker, trace(index, payload=2_000))
            if index % 100 == 0:
                await asyncio.sleep(0.6)
        await until(harness.all_committed)
    decided = {index: outcome(harness, index) for index in range(1, 601)}
    assert set(decided.values()) <= {Outcome.FULL, Outcome.SKELETON}
    harness.broker.committed.clear()
    harness.sink.stored.clear()
    async with harness.running(with_fleet(harness, topic)):
        await until(harness.all_committed)
    assert {index: outcome(harness, index) for index in range(1, 601)} == decided


@pytest.mark.parametrize("trouble", ["missing", "away"])
async def test_without_the_fleets_topic_traces_flow_and_it_is_said(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(decider, "_PATIENCE_MS", 200)
    monkeypatch.setattr(fleet, "_RETRY_S", 0.02)
    topic = MemoryFleetTopic()
    setattr(topic, trouble, True)
    harness = Harness(**BUDGET)
    async with harness.running(with_fleet(harness, topic)) as worker:
        for index in range(1, 21):
            send(harness.broker, trace(index))
        await until(harness.all_committed)
        assert sample(worker, "sample_unsettled_total") == 20
        assert sample(worker, "sample_fleet_errors_total") >= 1
    assert len(harness.sink.stored) == 20
    said = [r for r in caplog.records if "goes on without the fleet" in r.message]
    assert len([r for r in said if r.levelname == "WARNING"]) == 1


async def test_spans_that_come_late_follow_what_was_decided():
    harness = Harness(partitions=1, **rule(action="drop", names=["span-1"]))
    async with harness.running():
        send(harness.broker, trace(1))
        await until(harness.all_committed)
        send(harness.broker, fragment(1, [span(2, parent=1)]))
        send(harness.broker, fragment(2, [span(7)], end=End(1)))
        await until(harness.all_committed)
        await until(lambda: number(2) in harness.sink.stored)
    assert number(1) not in harness.sink.stored


async def test_a_shadow_policy_counts_and_changes_nothing():
    shadow = {"rules": [{"name": "big", "bytes_min": 1_000, "action": "drop"}]}
    harness = Harness(sample__rules=[], sample__shadow=shadow)
    for index in range(1, 11):
        send(harness.broker, trace(index, payload=5_000 if index <= 4 else 10))
    async with harness.running() as worker:
        await until(harness.all_committed)
        labels = {"outcome": "drop", "rule": "big", "reason": "drop"}
        assert sample(worker, "sample_shadow_decisions_total", **labels) == 4
        differences = {"live": "full", "shadow": "drop"}
        assert sample(worker, "sample_shadow_differences_total", **differences) == 4
    assert len(harness.sink.stored) == 10
    assert not any(s.trace.metadata for s in harness.sink.stored.values())


def policy_file(worker: Pipeline, path: Path, settings: Settings) -> PolicyFile:
    source = SettingsSource(lambda: load_settings({}, {}, path), path)
    return PolicyFile(source, worker._parts, settings, worker.intake.decider.use)


DROP = '[sample]\n[[sample.rules]]\nname = "all"\naction = "drop"\n'


async def test_a_changed_file_is_used_without_a_restart_and_a_bad_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "worker.toml"
    await asyncio.to_thread(path.write_text, "[sample]\nrules = []\n")
    harness = Harness(partitions=1, sample__rules=[])
    async with harness.running() as worker:
        file = policy_file(worker, path, load_settings({"sample.rules": "[]"}, {}))
        watching = asyncio.ensure_future(file.run())
        send(harness.broker, trace(1))
        await until(harness.all_committed)
        await asyncio.to_thread(path.write_text, DROP)
        await until(lambda: sample(worker, "sample_policy_loads_total", result="loaded") == 1)
        send(harness.broker, trace(2))
        await until(harness.all_committed)
        await asyncio.to_thread(path.write_text, DROP.replace('"drop"', '"hold"'))
        await until(lambda: sample(worker, "sample_policy_loads_total", result="refused") == 1)
        send(harness.broker, trace(3))
        await until(harness.all_committed)
        watching.cancel()
    assert list(harness.sink.stored) == [number(1)]
    assert "the old one stays: sample.rules" in caplog.text


async def test_only_the_policy_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "worker.toml"
    await asyncio.to_thread(path.write_text, DROP + "[write]\nlinger_s = 3\n")
    harness = Harness(sample__rules=[])
    async with harness.running() as worker:
        file = policy_file(worker, path, load_settings({}, {}))
        await file.reload()
        await file.reload()
        assert sample(worker, "sample_policy_loads_total", result="loaded") == 1
        assert sample(worker, "sample_policy_loads_total", result="unchanged") == 1
    assert "needs a restart" in caplog.text


def test_a_bad_policy_names_its_rule(tmp_path: Path):
    path = tmp_path / "worker.toml"
    path.write_text(DROP + '[[sample.rules]]\nname = "late"\naction = "keep"\n')
    with pytest.raises(SettingsError, match="rule 'late' can never match: rule 'all' before it"):
        load_settings({}, {}, path)


def feedback(index: int, name: str = "helpful") -> Assessment:
    return Assessment(
        assessment_id=f"a-{index}-{name}",
        kind=AssessmentKind.FEEDBACK,
        name=name,
        value=b"false",
        created_ns=1,
        trace_id=number(index),
    )


@pytest.mark.parametrize("action", ["drop", "skeleton"])
async def test_feedback_brings_the_whole_trace_back(action: str):
    harness = Harness(partitions=1, **rule(action=action))
    async with harness.running() as worker:
        whole = trace(1, payload=5_000)
        send(harness.broker, whole, record_bytes_max=2_000)  # in pieces
        send(harness.broker, trace(2, payload=5_000))
        await until(harness.all_committed)
        send(harness.broker, feedback(1))
        send(harness.broker, feedback(1, "again"))
        send(harness.broker, fragment(1, [span(7, parent=1)]))
        await until(harness.all_committed)
        await until(lambda: number(1) in harness.sink.stored)
        await until(lambda: len(harness.sink.stored[number(1)].assessments) == 2)
        await until(lambda: len(harness.sink.stored[number(1)].spans) == 2)
        assert sample(worker, "sample_restored_total", result="restored") == 1
        assert worker.intake.decider.held_bytes == 0
    about = harness.sink.stored[number(1)].trace.metadata
    assert about["spanferry.sampling.reason"] == "restored"
    assert about["spanferry.sampling.rule"] == "feedback"
    assert about["spanferry.sampling.restored"] == action
    assert (number(2) in harness.sink.stored) == (action == "skeleton")


@pytest.mark.parametrize("action", ["drop", "skeleton"])
async def test_what_kafka_has_removed_cannot_be_brought_back(action: str):
    harness = Harness(partitions=1, **rule(action=action))
    async with harness.running() as worker:
        send(harness.broker, trace(1, payload=5_000))
        await until(harness.all_committed)
        harness.broker.first_offsets[0] = 1
        send(harness.broker, feedback(1))
        await until(harness.all_committed)
        assert sample(worker, "sample_restored_total", result="gone") == 1
    if action == "drop":
        assert not harness.sink.stored
    else:
        stored = harness.sink.stored[number(1)]
        assert len(stored.assessments) == 1
        assert stored.trace.metadata["spanferry.sampling.outcome"] == "skeleton"


async def test_a_partition_that_goes_takes_its_restorations_along():
    harness = Harness(partitions=1, **rule(action="drop"))
    first, second = harness.pipeline(), harness.pipeline()
    async with harness.running(first):
        send(harness.broker, trace(1))
        await until(harness.all_committed)
        reading = asyncio.Event()

        async def hang(_positions: object) -> list[object]:
            reading.set()
            await asyncio.sleep(0.3)
            return []

        first._parts.log.read = hang
        send(harness.broker, feedback(1))
        await reading.wait()
        first.lanes.close(first.lanes.partitions)
        await until(lambda: first.intake.decider.held_bytes == 0)
    assert not harness.all_committed()
    async with harness.running(second):
        await until(lambda: len(harness.letters.letters) == 1 or harness.all_committed())


async def test_tags_that_come_with_the_feedback_are_not_lost():
    harness = Harness(partitions=1, **rule(action="skeleton"))
    async with harness.running():
        send(harness.broker, trace(1, payload=5_000))
        await until(harness.all_committed)
        send(harness.broker, fragment(1, part=TracePart(tags={"seen": "yes"})))
        send(harness.broker, feedback(1))
        await until(harness.all_committed)
    stored = harness.sink.stored[number(1)]
    assert stored.trace.metadata["spanferry.sampling.reason"] == "restored"
    assert stored.trace.tags["seen"] == "yes"
