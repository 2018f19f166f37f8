"""Feedback whose trace is not stored yet, on doubles."""

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
    """As MLflow: takes feedback by request only where it has the trace of that request."""

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
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
    assert letter.message == "no such trace"


async def test_a_worker_that_stops_leaves_waiting_feedback_to_the_next():
    harness = with_feedback("r1")
    async with harness.running() as worker:
        await until(lambda: worker.writer.held_bytes and worker.writer.idle.is_set())
    assert not harness.all_committed()
    assert harness.letters.letters == []
