"""From Kafka to the store: attachments in chunks, and tags for a trace that is or is not there."""

from collections.abc import Sequence

import pytest

from spanferry_schemas import End, TracePart
from spanferry_worker.errors import TraceNotFoundError
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.testing import MemorySink
from tests.worker.events import attachment, fragment, number, send, span
from tests.worker.runtime.harness import Harness, until

pytestmark = pytest.mark.both_loops
WHOLE = fragment(1, [span(1)], part=TracePart(tags={"own": "1"}), end=End(1))


class ParticularSink(MemorySink):
    """As MLflow: has no place for tags and attachments of a trace that it does not have."""

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        if any(not trace.spans and trace.trace_id not in self.stored for trace in batch):
            raise TraceNotFoundError("no such trace")
        await super().write(batch)


async def test_attachments_in_chunks_arrive_with_their_trace():
    harness = Harness(partitions=1)
    big, late = attachment(1, 50_000), attachment(2, 30_000)
    assert send(harness.broker, fragment(1, attachments=[big]), record_bytes_max=10_000) > 5
    send(harness.broker, WHOLE)
    async with harness.running():
        await until(lambda: number(1) in harness.sink.stored)
        stored = harness.sink.stored[number(1)]
        assert (stored.writes, stored.attachments) == (1, {big.attachment_id: big})
        send(harness.broker, fragment(1, attachments=[late]), record_bytes_max=10_000)
        await until(harness.all_committed)
    assert stored.attachments == {one.attachment_id: one for one in (big, late)}
    assert harness.letters.letters == []


@pytest.mark.parametrize("when", ["long before", "before", "after", "long after"])
async def test_tags_of_their_own_reach_their_trace(when):
    harness = Harness(partitions=1)
    harness.sink = ParticularSink()
    tags = fragment(1, part=TracePart(tags={"mark": "x"}))
    first, second = (tags, WHOLE) if "before" in when else (WHOLE, tags)
    async with harness.running() as worker:
        send(harness.broker, first)
        if when == "long before":
            await until(lambda: worker.writer.held_bytes and worker.writer.idle.is_set())
        elif when == "long after":
            await until(harness.all_committed)
        send(harness.broker, second)
        await until(harness.all_committed)
    assert harness.sink.stored[number(1)].trace.tags == {"own": "1", "mark": "x"}
    assert harness.letters.letters == []
