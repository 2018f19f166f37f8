"""Feedback whose trace is not stored yet, on doubles."""

import asyncio
from collections.abc import Sequence

import pytest

from spanferry_schemas import End, TracePart, encode
from spanferry_worker.errors import TraceNotFoundError
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.testing import MemorySink
from tests.worker.events import feedback, fragment, number, send, span
from tests.worker.runtime.harness import Harness, until

pytestmark = pytest.mark.both_loops


class ParticularSink(MemorySink):
    """As MLflow: takes feedback only where it has the trace."""

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        known = self.stored.keys() | {trace.trace_id for trace in batch if trace.spans}
        if any(trace.trace_id is not None and trace.trace_id not in known for trace in batch):
            raise TraceNotFoundError("no such trace")
        await super().write([trace for trace in batch if trace.trace_id is not None])
        requests = {stored.trace.client_request_id for stored in self.stored.values()}
        for trace in batch:
            if trace.trace_id is None and trace.assessments[0].client_request_id not in requests:
                raise TraceNotFoundError("no such trace")
        await super().write([trace for trace in batch if trace.trace_id is None])


def with_feedback(request: str, **settings: object) -> Harness:
    """A worker to be, with feedback on a request in front of it."""
    harness = Harness(partitions=1, **settings)
    harness.sink = ParticularSink()
    harness.broker.produce(encode(feedback(1, None, request)), key=number(5))
    return harness


async def test_feedback_by_request_waits_for_a_trace_that_comes_later():
    harness = with_feedback("r1")
    async with harness.running() as worker:
        await until(lambda: worker.writer.held_bytes and worker.writer.idle.is_set())
        part = TracePart(client_request_id="r1")
        send(harness.broker, fragment(1, [span(1)], part=part, end=End(1)))
        await until(harness.all_committed)
        assert worker.writer.held_bytes == 0
    assert list(harness.sink.orphans) == [feedback(1, None, "r1").assessment_id]
    assert harness.letters.letters == []


async def test_feedback_whose_trace_never_comes_is_a_dead_letter_in_the_end():
    harness = with_feedback("nobody", write__absent_s=0.1)
    async with harness.running():
        await until(harness.all_committed)
    (letter,) = harness.letters.letters
    assert (letter.reason, letter.message) == ("no_trace", "no such trace")


async def test_a_worker_that_stops_leaves_waiting_feedback_to_the_next():
    harness = with_feedback("r1")
    async with harness.running() as worker:
        await until(lambda: worker.writer.held_bytes and worker.writer.idle.is_set())
    assert not harness.all_committed()
    assert harness.letters.letters == []


async def test_feedback_that_waits_survives_workers_that_are_killed():
    """Its offset is not committed: whoever reads it next waits anew, and finds the trace."""
    harness = with_feedback("r1")
    for _ in range(2):
        worker = harness.pipeline()
        task = asyncio.ensure_future(worker.run())
        await until(lambda worker=worker: worker.writer.held_bytes and worker.writer.idle.is_set())
        await worker.committer.commit()
        task.cancel()  # as dead as a task can be
        await asyncio.gather(task, return_exceptions=True)
    assert harness.broker.committed.get(harness.broker.partitions[0], 0) == 0
    part = TracePart(client_request_id="r1")
    send(harness.broker, fragment(1, [span(1)], part=part, end=End(1)))
    async with harness.running():
        await until(harness.all_committed)
    assert list(harness.sink.orphans) == [feedback(1, None, "r1").assessment_id]
    assert harness.letters.letters == []


async def test_feedback_by_trace_id_waits_too_and_is_stored_once():
    harness = Harness(partitions=1)
    harness.sink = ParticularSink()
    harness.broker.produce(encode(feedback(1, 1)), key=number(1))
    async with harness.running() as worker:
        await until(lambda: worker.writer.held_bytes and worker.writer.idle.is_set())
        send(harness.broker, fragment(1, [span(1)], end=End(1)))
        await until(harness.all_committed)
    assert list(harness.sink.stored[number(1)].assessments) == [feedback(1, 1).assessment_id]
    assert harness.letters.letters == []


async def test_waiting_feedback_holds_the_watermark_no_longer_than_it_may():
    """What came behind it is stored meanwhile, and all is committed once it is given up."""
    harness = with_feedback("nobody", write__absent_s=0.4)
    async with harness.running() as worker:
        for trace_id in range(2, 50):
            send(harness.broker, fragment(trace_id, [span(1)], end=End(1)))
        await until(lambda: len(harness.sink.stored) == 48)
        await worker.committer.commit()
        assert harness.broker.committed.get(harness.broker.partitions[0], 0) == 0
        await until(harness.all_committed)
    assert [letter.reason for letter in harness.letters.letters] == ["no_trace"]


async def test_more_feedback_than_may_wait_does_not_stop_intake():
    harness = with_feedback("r0", write__absent_s=60, write__absent_bytes_max=500)
    for n in range(1, 30):
        harness.broker.produce(encode(feedback(n + 1, None, f"r{n}")), key=number(5))
    async with harness.running():
        await until(lambda: len(harness.letters.letters) > 20)
        send(harness.broker, fragment(1, [span(1)], end=End(1)))
        await until(lambda: number(1) in harness.sink.stored)
    assert {letter.reason for letter in harness.letters.letters} == {"no_trace"}


async def test_much_feedback_without_a_trace_is_no_fault_of_the_worker():
    harness = with_feedback("r0", write__absent_s=0, dead_letters__count_min=5)
    for n in range(1, 40):
        harness.broker.produce(encode(feedback(n + 1, None, f"r{n}")), key=number(5))
    async with harness.running():
        await until(harness.all_committed)
    assert len(harness.letters.letters) == 40
