"""Feedback for a trace that sampling has cut or dropped brings the whole trace back from Kafka."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from spanferry_schemas import read_meta
from spanferry_worker.errors import TransientError
from spanferry_worker.runtime.lanes import Lane
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.settings import Settings
from spanferry_worker.stages.assemble import Assembler
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.decode import Decoded, Decoder
from spanferry_worker.stages.parts import united
from spanferry_worker.stages.sample import Outcome, Sampled, restored
from spanferry_worker.stages.trace import AssembledTrace, Position
from spanferry_worker.telemetry import LogEvent

__all__ = ["Restoration", "Restorer"]

_log = logging.getLogger("spanferry.sample")
_RULE: Final = "feedback"
_WAITING_MAX: Final = 1_000
"""More than this do not wait: their feedback goes the way of their traces."""
_AT_ONCE: Final = 20
"""Traces read again by one consumer."""
_TRIES: Final = 5


class Restoration(NamedTuple):
    """One trace that is being restored."""

    late: AssembledTrace
    """The feedback, and what else came with it."""
    lane: Lane
    earlier: Sampled
    behind: list[tuple[AssembledTrace, Lane]]
    """What came for the trace since, in order."""


class Restorer:
    """Reads traces again in the background, and hands them on whole, with the feedback that came.

    What cannot be read any more is handed back as it came. A worker that ends before has committed
    nothing of it.
    """

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._parts = parts
        self._settings = settings
        self._requests: OrderedDict[bytes | None, Restoration] = OrderedDict()
        self._arrived = asyncio.Event()
        self.held_bytes = 0
        """What waits here takes in memory."""
        self.on_done: Callable[[Restoration, AssembledTrace | None], None] = _nothing
        """Called with the whole trace, or None where it is gone; the lane may be lost meanwhile."""

    def ask(self, late: AssembledTrace, lane: Lane, earlier: Sampled) -> bool:
        """Restore a trace that feedback came for; False where it is not known where its records lie, or too
        many wait already."""
        if not earlier.positions:
            self._parts.metrics.sample.restored.labels("gone").inc()
            return False
        if len(self._requests) >= _WAITING_MAX:
            return False
        self._requests[late.trace_id] = Restoration(late, lane, earlier, [])
        self.held_bytes += late.memory_bytes
        self._arrived.set()
        return True

    def knows(self, trace: AssembledTrace) -> bool:
        """Whether its trace is being restored."""
        return trace.trace_id in self._requests

    def takes(self, trace: AssembledTrace, lane: Lane) -> bool:
        """Whether its trace is being restored: then it is kept until that is done."""
        under_way = self._requests.get(trace.trace_id)
        if under_way is None:
            return False
        under_way.behind.append((trace, lane))
        self.held_bytes += trace.memory_bytes
        return True

    async def run(self) -> None:
        """Restore what comes, for ever."""
        attempt = 0
        while True:
            await self._arrived.wait()
            some = list(islice(self._requests.values(), _AT_ONCE))
            try:
                found = await self._read(some)
            except TransientError as error:
                attempt += 1
                if attempt < _TRIES:
                    delay_s = self._settings.retry.delay_s(attempt, self._parts.chance.random())
                    await asyncio.sleep(delay_s)
                    continue
                _log.warning(
                    "cut traces with feedback stay cut: %s",
                    error,
                    extra=LogEvent.SAMPLE_NOT_RESTORED(traces=len(some)),
                )
                found = {}
            attempt = 0
            for request in some:
                del self._requests[request.late.trace_id]
                self.held_bytes -= _held(request)
                self.on_done(request, self._whole(request, found))
            if not self._requests:
                self._arrived.clear()

    async def _read(self, requests: Sequence[Restoration]) -> dict[Position, Record]:
        positions = [one for request in requests for one in request.earlier.positions]
        records = await self._parts.log.read(positions)
        return {Position(each.topic, each.partition, each.offset): each for each in records}

    def _whole(
        self, request: Restoration, found: Mapping[Position, Record]
    ) -> AssembledTrace | None:
        late, _, earlier, _ = request
        records = [found[one] for one in earlier.positions if one in found]
        whole = self._assembled(late.trace_id, records)
        counts = self._parts.metrics.sample.restored
        if whole is None or {*whole.positions} != {*earlier.positions}:
            counts.labels("gone").inc()
            return None
        counts.labels("restored").inc()
        return restored(
            replace(united([whole, late]), positions=late.positions),
            rule=_RULE,
            before=earlier.outcome,
            weight=earlier.weight if earlier.outcome is Outcome.SKELETON else 1.0,
        )

    def _assembled(
        self, trace_id: bytes | None, records: Sequence[Record]
    ) -> AssembledTrace | None:
        """The trace as these records have it; None where its spans are not among them."""
        decoder, assembler = Decoder(self._settings.decode), Assembler(self._settings.assemble)
        traces: list[AssembledTrace] = []
        for record in records:
            for outcome in decoder.take(record, read_meta(record.headers), record.timestamp):
                if isinstance(outcome, Decoded):
                    trace = assembler.add(outcome, record.timestamp)
                    if trace is not None:
                        traces.append(trace)
        pieces = [one for one in (*traces, *assembler.drain()) if one.trace_id == trace_id]
        return united(pieces) if any(one.spans for one in pieces) else None


def _nothing(_done: Restoration, _whole: AssembledTrace | None) -> None:
    """Until somebody wants to know."""


def _held(request: Restoration) -> int:
    return request.late.memory_bytes + sum(trace.memory_bytes for trace, _ in request.behind)
