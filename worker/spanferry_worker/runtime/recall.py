"""Asks what was decided on a trace before, where this worker does not know: a skeleton says it itself.

Only what comes late, without its trace's root, and feedback ask; whole new traces never do.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from spanferry_schemas import Assessment
from spanferry_worker.errors import PoisonError, WorkerError
from spanferry_worker.runtime.drops import Drops
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.remembered import Remembered
from spanferry_worker.settings import Settings
from spanferry_worker.stages.sample import Outcome, Sampled, read_sampled
from spanferry_worker.stages.trace import AssembledTrace, FinishReason
from spanferry_worker.telemetry import LogEvent

__all__ = ["Recall", "is_piece"]

_log = logging.getLogger("spanferry.sample")
_LOOK_S: Final = 0.05
_PATIENCE_MS: Final = 10_000
"""After this long without an answer it is decided by what is known here."""
_AT_ONCE: Final = 400
"""Traces in one question."""
_HELD_SHARE: Final = 8
"""What waits for an answer may take this part of `consume.held_bytes_max`."""

_REQUEST: Final = b"request "
Stored = Mapping[bytes, tuple[bytes, Mapping[str, str]]]
"""By key: the trace's id, and what it says of its sampling."""


class _Asked(Struct, frozen=True):
    """One trace that was asked for, and what has come of it, in order."""

    key: bytes
    """Its id, or what stands for the client's id of its request."""
    pieces: list[tuple[AssembledTrace, Lane]]
    since_ms: int

    @property
    def request(self) -> Assessment | None:
        """Feedback that names the request."""
        first = self.pieces[0][0]
        return first.assessments[0] if first.trace_id is None else None


class Recall:
    """What waits for an answer is bounded in bytes and in time; without one it goes on as it is."""

    def __init__(
        self, parts: Parts, settings: Settings, lanes: Lanes, remembered: Remembered, drops: Drops
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._lanes = lanes
        self._remembered = remembered
        self._drops = drops
        self._asked: OrderedDict[bytes, _Asked] = OrderedDict()
        self._arrived = asyncio.Event()
        self.held_bytes = 0
        """What waits here takes in memory."""
        self.is_on = False
        """Whether the policy can leave less of a trace than all."""
        self.on_answer: Callable[[AssembledTrace, Lane, Sampled | None], None] = _nothing
        """Called with every piece in order; None: nothing was decided before, or nobody knows."""

    def takes(self, trace: AssembledTrace, lane: Lane) -> bool:
        """Whether its trace is asked for: then it is kept until there is an answer."""
        asked = self._asked.get(_key(trace))
        if asked is None:
            return False
        asked.pieces.append((trace, lane))
        self.held_bytes += trace.memory_bytes
        return True

    def ask(self, trace: AssembledTrace, lane: Lane) -> bool:
        """Keep it and ask, where that is needed; False where it is not, or too much waits already."""
        key = _key(trace)
        if not key or not self._needs(trace, lane):
            return False
        if self.held_bytes + trace.memory_bytes > self._lanes.room.held_bytes_max // _HELD_SHARE:
            self._count("unasked")
            return False
        since_ms = self._parts.clock.now_ms()
        self._asked[key] = _Asked(key, [(trace, lane)], since_ms)
        self.held_bytes += trace.memory_bytes
        self._arrived.set()
        return True

    def _needs(self, trace: AssembledTrace, lane: Lane) -> bool:
        # What is written because the worker stops cannot wait.
        if not self.is_on or trace.reason is FinishReason.DRAIN or not is_piece(trace):
            return False
        if trace.trace_id is None:
            return True
        earlier = self._remembered.own(lane, trace.trace_id)
        if earlier is not None:
            # Its records are too many to be remembered, or lie in another partition.
            lost = earlier.outcome is not Outcome.FULL and not earlier.positions
            return lost and bool(trace.assessments)
        was_here = trace.reason is FinishReason.LATE and (bool(trace.spans) or trace.complete)
        return not (was_here and self._remembered.is_whole(lane))

    async def run(self) -> None:
        """Ask and answer, for ever."""
        attempt = 0
        while True:
            await self._arrived.wait()
            some = self._due()
            if not some:
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                stored = await self._stored(some)
            except WorkerError as error:
                attempt += 1
                self._say(error)
                self._give_up()
                await asyncio.sleep(
                    self._settings.retry.delay_s(attempt, self._parts.chance.random())
                )
                continue
            attempt = 0
            for one in some:
                if self._asked.get(one.key) is one:
                    self._answer(one, stored)

    def _due(self) -> list[_Asked]:
        """The next to be asked for: what was dropped in their partition must be known first."""
        due: list[_Asked] = []
        for one in list(self._asked.values()):
            home = self._home(one)
            if home is None:
                self._answer(one, None)
            elif self._drops.is_ready(home):
                due.append(one)
                if len(due) == _AT_ONCE:
                    break
        if not due:
            self._give_up()
        return due

    def _home(self, asked: _Asked) -> Lane | None:
        """Where it has come, if that is still ours."""
        lanes = (lane for _, lane in reversed(asked.pieces))
        return next((lane for lane in lanes if self._lanes.owned(lane.lane_id) is not None), None)

    async def _stored(self, some: Sequence[_Asked]) -> Stored:
        """Ask the store. What has waited too long meanwhile is given up; a second question is not put."""
        question = asyncio.ensure_future(self._question(some))
        try:
            while not (await asyncio.wait([question], timeout=_LOOK_S))[0]:
                self._give_up()
            return question.result()
        except WorkerError:
            raise
        except Exception as error:
            _log.exception("unexpected error of the store", extra=LogEvent.WRITE_UNEXPECTED())
            raise PoisonError(f"{type(error).__name__}: {error}") from error
        finally:
            question.cancel()

    async def _question(self, some: Sequence[_Asked]) -> Stored:
        sink = self._parts.sink
        trace_ids = [one.key for one in some if one.request is None]
        marks = await sink.marks(trace_ids) if trace_ids else {}
        stored = {trace_id: (trace_id, found) for trace_id, found in marks.items()}
        for one in some:
            found = None if one.request is None else await sink.marks_of_request(one.request)
            if found is not None:
                stored[one.key] = found
        return stored

    def _give_up(self) -> None:
        """Go on without an answer of the store where that took too long."""
        long_ago_ms = self._parts.clock.now_ms() - _PATIENCE_MS
        while self._asked:
            one = next(iter(self._asked.values()))
            if one.since_ms > long_ago_ms:
                break
            self._answer(one, None)

    def _answer(self, asked: _Asked, stored: Stored | None) -> None:
        """Hand its pieces on; `stored` is None where the store has not answered."""
        del self._asked[asked.key]
        if not self._asked:
            self._arrived.clear()
        sampled = self._sampled(asked, stored)
        unknown = "unanswered" if stored is None else "new"
        self._count(unknown if sampled is None else sampled.outcome.value)
        named = None
        if asked.request is not None:
            named = stored[asked.key][0] if stored and sampled and sampled.positions else None
            sampled = sampled if named else None
        for trace, lane in asked.pieces:
            self.held_bytes -= trace.memory_bytes
            if self._lanes.owned(lane.lane_id) is None:
                continue
            if named is not None:
                self.on_answer(_named(trace, named), lane, sampled)
                continue
            if sampled is not None and self._remembered.own(lane, asked.key) is None:
                self._remembered.put(lane, asked.key, sampled)
            self.on_answer(trace, lane, sampled)

    def _sampled(self, asked: _Asked, stored: Stored | None) -> Sampled | None:
        """What the store has is so; a trace that it has not may have been dropped."""
        found = None if stored is None else stored.get(asked.key)
        if found is not None:
            return read_sampled(found[1], self._settings.kafka.topic)
        home = self._home(asked)
        return None if home is None else self._remembered.dropped(home, asked.key)

    def _count(self, result: str) -> None:
        self._parts.metrics.sample.recalled.labels(result).inc()

    def _say(self, error: WorkerError) -> None:
        _log.warning(
            "the store does not say what was decided on traces before: %s",
            error,
            extra=LogEvent.SAMPLE_NOT_RECALLED(traces=len(self._asked)),
        )


def is_piece(trace: AssembledTrace) -> bool:
    """Whether it may be more of a trace that was decided before: late, without spans, or without a root."""
    if trace.reason is FinishReason.COMPLETE:
        return False
    if trace.reason is FinishReason.LATE or not trace.spans:
        return True
    return all(span.parent_id is not None for span in trace.spans)


def _key(trace: AssembledTrace) -> bytes:
    """What is asked for; empty for what nobody could find."""
    if trace.trace_id is not None:
        return trace.trace_id
    request = trace.assessments[0].client_request_id if trace.assessments else None
    return b"" if not request else _REQUEST + request.encode("utf-8", "surrogatepass")


def _named(feedback: AssembledTrace, trace_id: bytes) -> AssembledTrace:
    """Feedback by a request as feedback on the trace that the request has made."""
    judged = [replace(one, trace_id=trace_id) for one in feedback.assessments]
    return replace(feedback, trace_id=trace_id, assessments=judged)


def _nothing(_trace: AssembledTrace, _lane: Lane, _sampled: Sampled | None) -> None:
    """Until somebody wants to know."""
