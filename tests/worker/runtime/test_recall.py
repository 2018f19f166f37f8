"""What was decided on a trace before holds for what comes after a restart, a rebalance, or hours."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from spanferry_schemas import Assessment, Fragment, Span, TracePart, encode
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.runtime import drops, recall
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.settings import SampleSettings
from spanferry_worker.stages.sample import Action, Outcome, Rule, entries, read_outcome
from spanferry_worker.testing import MemoryDropped, MemorySink, StoredTrace
from tests.worker.events import End, feedback, fragment, number, send, span
from tests.worker.runtime.harness import Harness, sample, until


class Desk(Harness):
    """Workers of one policy that share a log of dropped traces."""

    def __init__(self, action: str, partitions: int = 1, **changes: object) -> None:
        rules = {"sample__rules": [{"name": "it", "action": action}]}
        super().__init__(partitions=partitions, **(rules | changes))
        self.dropped = MemoryDropped(self.clock)

    def worker(self) -> Pipeline:
        return self.pipeline(dropped=self.dropped)

    def stored(self, index: int) -> StoredTrace | None:
        return self.sink.stored.get(number(index))

    def send(self, event: Fragment | Assessment) -> None:
        send(self.broker, event)

    async def sampled(self, *indexes: int) -> None:
        """A worker cuts or drops these traces, then ends."""
        async with self.running(self.worker()):
            for index in indexes:
                self.send(trace(index))
            await until(self.all_committed)


def trace(index: int, payload: int = 5_000) -> Fragment:
    part = TracePart(experiment="shop")
    return fragment(index, [span(1, payload=payload)], end=End(1), part=part)


def late(index: int, name: int = 7, payload: int = 5_000) -> Fragment:
    return fragment(index, [span(name, parent=1, payload=payload)])


def is_cut(one: Span) -> bool:
    return CUT_ATTRIBUTE in one.attributes


def outcome(stored: StoredTrace | None) -> Outcome | None:
    return None if stored is None else read_outcome(stored.trace.metadata)


async def test_late_spans_of_a_skeleton_are_cut_by_another_worker_and_come_back_with_all():
    desk = Desk("skeleton")
    await desk.sampled(1)
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1))
        await until(desk.all_committed)
        assert sample(worker, "sample_recalled_total", result="skeleton") == 1
        desk.send(late(1, name=8))
        await until(desk.all_committed)
        assert worker.intake.decider.held_bytes == 0
    stored = desk.stored(1)
    assert stored is not None
    assert list(map(is_cut, stored.spans.values())) == [True, True, True]
    assert desk.sink.asked == [number(1)]
    async with desk.running(desk.worker()) as worker:
        desk.send(feedback(1, 1))
        await until(desk.all_committed)
        assert sample(worker, "sample_restored_total", result="restored") == 1
    stored = desk.stored(1)
    assert stored is not None
    assert list(map(is_cut, stored.spans.values())) == [False, False, False]
    assert list(stored.assessments) == ["a-1"]
    assert outcome(stored) is Outcome.FULL


async def test_a_dropped_trace_stays_dropped_after_a_restart_until_feedback_brings_it_back():
    desk = Desk("drop", partitions=3)
    await desk.sampled(1, 2, 3)
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1))
        desk.send(late(2))
        await until(desk.all_committed)
        assert not desk.sink.stored
        assert sample(worker, "sample_recalled_total", result="drop") == 2
    async with desk.running(desk.worker()):
        desk.send(feedback(1, 1))
        await until(desk.all_committed)
        stored = desk.stored(1)
        assert stored is not None
        assert sorted(one.name for one in stored.spans.values()) == ["span-1", "span-7"]
        assert stored.trace.metadata["spanferry.sampling.restored"] == "drop"
        assert list(stored.assessments) == ["a-1"]
        desk.send(late(1, name=9))
        await until(lambda: len(desk.sink.stored[number(1)].spans) == 3)
    assert list(desk.sink.stored) == [number(1)]
    # What MLflow has stands: it is not dropped any more, though it is written down.
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1, name=10))
        desk.send(feedback(2, 1))
        await until(desk.all_committed)
        assert sample(worker, "sample_restored_total", result="restored") == 0
    assert len(desk.sink.stored[number(1)].spans) == 4
    assert len(desk.sink.stored[number(1)].assessments) == 2


@pytest.mark.parametrize("action", ["skeleton", "drop"])
async def test_it_goes_on_over_a_rebalance(action: str):
    desk = Desk(action, partitions=2)
    async with desk.running(desk.worker()):
        for index in (1, 2):
            desk.send(trace(index))
        await until(desk.all_committed)
        async with desk.running(desk.worker()):  # takes one of the two partitions
            for index in (1, 2):
                desk.send(feedback(index, index))
            await until(desk.all_committed)
    assert {outcome(desk.stored(1)), outcome(desk.stored(2))} == {Outcome.FULL}
    for index in (1, 2):
        assert [is_cut(one) for one in desk.sink.stored[number(index)].spans.values()] == [False]


async def test_whole_new_traces_and_what_comes_for_those_decided_here_ask_nobody():
    desk = Desk("keep", sample__rules=[{"name": "big", "action": "skeleton", "bytes_min": 2_000}])
    async with desk.running(desk.worker()):
        for index in range(1, 21):
            desk.send(trace(index, payload=10 if index % 2 else 5_000))
        desk.send(fragment(30, [span(1)]))  # its end never comes, its root is there
        await until(desk.all_committed)
        desk.send(late(1))
        desk.send(late(2))
        desk.send(feedback(1, 1))
        await until(desk.all_committed)
    assert desk.sink.asked == []
    for index, cut in ((1, False), (2, True)):
        spans = desk.sink.stored[number(index)].spans
        assert [is_cut(one) for one in spans.values()] == [cut, cut]


async def test_a_late_root_goes_the_way_of_its_trace_though_assembly_has_forgotten_that():
    big = {"name": "big", "action": "drop", "bytes_min": 2_000}
    desk = Desk("keep", sample__rules=[big], assemble__released_traces_max=0)
    async with desk.running(desk.worker()):
        desk.send(late(1))
        await until(desk.all_committed)
        desk.send(fragment(1, [span(1)], end=End(2)))  # by itself it would be stored
        desk.send(fragment(2, [span(1)], end=End(2)))
        await until(desk.all_committed)
    assert list(desk.sink.stored) == [number(2)]
    assert desk.sink.asked == [number(1)], "only for what came without a root"


async def test_a_policy_that_keeps_everything_asks_nobody():
    desk = Desk("keep")
    async with desk.running(desk.worker()):
        desk.send(late(1))
        desk.send(feedback(1, 1))
        await until(desk.all_committed)
    assert (desk.sink.asked, desk.dropped.opened) == ([], 0)


async def test_a_policy_that_cannot_drop_uses_no_topic():
    desk = Desk("skeleton")
    await desk.sampled(1)
    assert desk.dropped.opened == 0


async def test_a_store_that_does_not_answer_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(recall, "_PATIENCE_MS", 300)
    desk = Desk("skeleton")
    await desk.sampled(1)
    desk.sink.answering.clear()
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1, payload=10))
        desk.send(trace(2))
        await until(lambda: worker.intake.decider.recall.held_bytes)
        await until(lambda: desk.stored(2))  # others do not wait
        assert not desk.all_committed()
        await until(desk.all_committed)
        assert sample(worker, "sample_recalled_total", result="unanswered") == 1
        assert worker.intake.decider.held_bytes == 0
        desk.sink.answering.set()
    stored = desk.stored(1)
    assert stored is not None
    assert len(stored.spans) == 2


async def test_a_store_that_is_away_for_a_moment_is_asked_again():
    desk = Desk("skeleton")
    await desk.sampled(1)
    async with desk.running(desk.worker()) as worker:
        desk.sink.transient_failures = 3
        desk.send(late(1))
        await until(desk.all_committed)
        assert sample(worker, "sample_recalled_total", result="skeleton") == 1
    assert all(is_cut(one) for one in desk.sink.stored[number(1)].spans.values())


async def test_no_more_waits_than_may(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recall, "_HELD_SHARE", 40_000)  # 6.7 KB
    desk = Desk("skeleton")
    await desk.sampled(1, 2)
    desk.sink.answering.clear()
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1, payload=3_000))
        desk.send(late(2, payload=3_000))
        await until(lambda: sample(worker, "sample_recalled_total", result="unasked") == 1)
        assert 0 < worker.intake.decider.recall.held_bytes < 7_000
        desk.sink.answering.set()
        await until(desk.all_committed)


async def test_drops_are_written_down_before_their_offsets_move():
    desk = Desk("drop")
    written = asyncio.Event()
    append = desk.dropped.append

    async def slowly(records: Sequence[tuple[int, bytes]]) -> None:
        await written.wait()
        await append(records)

    desk.dropped.append = slowly
    async with desk.running(desk.worker()) as worker:
        for index in range(1, 6):
            desk.send(trace(index))
        await until(lambda: worker.intake.decider.held_bytes)
        await worker.committer.commit()
        assert desk.broker.committed.get(desk.broker.partitions[0], 0) == 0
        written.set()
        await until(desk.all_committed)
        assert worker.intake.decider.held_bytes == 0
    assert len(desk.dropped.records[0]) == 1  # one for all five


async def test_a_stop_waits_until_drops_are_written_down():
    desk = Desk("drop")
    async with desk.running(desk.worker()) as worker:
        desk.send(trace(1))
        await until(lambda: worker.intake.decider.drops.held_bytes)
    assert desk.all_committed()
    assert len(desk.dropped.records[0]) == 1


@pytest.mark.parametrize("trouble", ["missing", "away"])
async def test_without_the_topic_traces_are_dropped_and_it_is_said_once(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(drops, "_PATIENCE_MS", 100)
    monkeypatch.setattr(drops, "_RETRY_S", 0.05)
    desk = Desk("drop")
    setattr(desk.dropped, trouble, True)
    async with desk.running(desk.worker()) as worker:
        for index in range(1, 6):
            desk.send(trace(index))
        await until(desk.all_committed)
        assert sample(worker, "sample_unwritten_drops_total") == 5
        assert sample(worker, "sample_dropped_errors_total") >= 1
        desk.send(feedback(1, 1))  # the worker itself still knows
        await until(desk.all_committed)
        assert outcome(desk.stored(1)) is Outcome.FULL
    said = [one for one in caplog.records if "cannot be written down" in one.message]
    assert [one.levelname for one in said if one.levelname == "WARNING"] == ["WARNING"]


async def test_the_log_is_read_once_the_policy_can_drop_and_until_it_cannot():
    desk = Desk("drop")
    await desk.sampled(1)
    rule = Rule(name="it", action=Action.KEEP)
    desk.settings = Harness(sample__rules=[{"name": "it", "action": "keep"}]).settings
    async with desk.running(desk.worker()) as worker:
        decider = worker.intake.decider
        await until(lambda: worker.state == "ready")
        drop = Rule(name="it", action=Action.DROP, names=["span-1"])  # which late spans are not
        decider.use(SampleSettings(rules=[drop]))
        desk.send(late(1))
        await until(desk.all_committed)
        assert not desk.sink.stored
        assert desk.dropped.opened == 2
        decider.use(SampleSettings(rules=[rule]))
        desk.send(late(2))
        await until(lambda: desk.stored(2))


async def test_what_has_waited_for_an_answer_when_its_partition_went_is_the_next_owners():
    desk = Desk("skeleton")
    await desk.sampled(1)
    desk.sink.answering.clear()
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1))
        await until(lambda: worker.intake.decider.recall.held_bytes)
    assert not desk.all_committed()
    desk.sink.answering.set()
    async with desk.running(desk.worker()):
        await until(desk.all_committed)
    assert all(is_cut(one) for one in desk.sink.stored[number(1)].spans.values())


async def test_another_groups_drops_are_not_ours():
    desk = Desk("drop")
    ours, desk.settings = desk.settings, Desk("drop", kafka__group="theirs").settings
    await desk.sampled(1)
    desk.settings = ours
    async with desk.running(desk.worker()) as worker:
        desk.send(late(1, payload=10))
        await until(desk.all_committed)
        assert sample(worker, "sample_recalled_total", result="new") == 1


async def test_a_trace_whose_records_moved_to_another_partition_is_found_again():
    """As after partitions were added: only the store knows, and says where to read."""
    desk = Desk("skeleton", partitions=2)
    async with desk.running(desk.worker()):
        send(desk.broker, trace(1), partition=0)
        await until(desk.all_committed)
    async with desk.running(desk.worker()):
        send(desk.broker, late(1), partition=1)
        await until(desk.all_committed)
        assert [is_cut(one) for one in desk.sink.stored[number(1)].spans.values()] == [True, True]
        send(desk.broker, feedback(1, 1), partition=1)
        await until(desk.all_committed)
    assert [is_cut(one) for one in desk.sink.stored[number(1)].spans.values()] == [False, False]


async def test_the_memory_of_a_worker_is_bounded_and_then_the_store_is_asked(
    monkeypatch: pytest.MonkeyPatch,
):
    desk = Desk("skeleton")
    async with desk.running(desk.worker()) as worker:
        remembered = worker.intake.decider._remembered
        remembered._index._bytes_max = 10 * len(entries(number(1), Outcome.SKELETON, [0]))
        for index in range(1, 41):
            desk.send(trace(index))
        await until(desk.all_committed)
        worker.intake.decider.tick()
        assert sample(worker, "sample_remembered_bytes") <= 240
        desk.send(late(1))
        await until(desk.all_committed)
        assert desk.sink.asked == [number(1)]
    assert all(is_cut(one) for one in desk.sink.stored[number(1)].spans.values())


async def test_marks_that_name_another_topic_are_not_read():
    desk = Desk("skeleton")
    await desk.sampled(1)
    marks: Mapping[str, str] = desk.sink.stored[number(1)].trace.metadata
    assert marks["spanferry.sampling.records"] == "spanferry.traces/0:0"
    desk.sink.stored[number(1)].trace.metadata["spanferry.sampling.records"] = "secrets/0:0"
    async with desk.running(desk.worker()) as worker:
        desk.send(feedback(1, 1))
        await until(desk.all_committed)
        assert sample(worker, "sample_restored_total", result="gone") == 1
    assert outcome(desk.stored(1)) is Outcome.SKELETON
    assert len(desk.sink.stored[number(1)].assessments) == 1


async def test_feedback_by_the_clients_request_brings_a_skeleton_back_too():
    desk = Desk("skeleton", partitions=2)
    desk.sink = MemorySink(particular=True)
    async with desk.running(desk.worker()):
        for index, request in ((1, "r1"), (2, "r2")):
            part = TracePart(client_request_id=request)
            event = fragment(index, [span(1, payload=5_000)], end=End(1), part=part)
            send(desk.broker, event, partition=0)
        await until(desk.all_committed)
    async with desk.running(desk.worker()) as worker:
        for name, request in ((1, "r1"), (2, "r1"), (3, "nobody")):
            desk.broker.produce(encode(feedback(name, None, request)), partition=1)
        await until(lambda: sample(worker, "sample_restored_total", result="restored") == 1)
        send(desk.broker, late(1), partition=0)
        await until(lambda: len(desk.sink.stored[number(1)].spans) == 2)
        send(
            desk.broker,
            fragment(3, [span(1)], end=End(1), part=TracePart(client_request_id="nobody")),
        )
        await until(desk.all_committed)
    spans = [desk.sink.stored[number(index)].spans.values() for index in (1, 2)]
    assert [list(map(is_cut, some)) for some in spans] == [[False, False], [True]]
    assert list(desk.sink.stored[number(1)].assessments) == ["a-1", "a-2"]
    assert list(desk.sink.stored[number(3)].assessments) == ["a-3"]
    # It is there once, also if it comes again.
    async with desk.running(desk.worker()) as worker:
        desk.broker.produce(encode(feedback(1, None, "r1")), partition=1)
        await until(desk.all_committed)
        assert sample(worker, "sample_restored_total", result="restored") == 0
    assert list(desk.sink.stored[number(1)].assessments) == ["a-1", "a-2"]
