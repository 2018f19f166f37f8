"""Records become traces as they do in a worker that keeps up, in the records' own time. Pure."""

from collections.abc import Iterable
from typing import Final

from spanferry_schemas import read_meta
from spanferry_worker.settings import Settings
from spanferry_worker.stages.assemble import Assembler
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.decode import Decoded, Decoder, Outcome, Rejected
from spanferry_worker.stages.overload import shed
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["Gatherer"]

_TICK_MS: Final = 250
"""How often timers are looked at, in the records' time."""


class _Lane:
    def __init__(self, settings: Settings) -> None:
        self.decoder = Decoder(settings.decode)
        self.assembler = Assembler(settings.assemble)


class Gatherer:
    """Decodes and assembles the records of a topic, given in order of time.

    Memory is bounded as a worker's: by `assemble.bytes_max`, and `decode.chunk_bytes_max` a partition.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lanes: dict[int, _Lane] = {}
        self._ticked_ms = 0
        self.now_ms = 0
        """The time of the newest record; it never goes back."""
        self.records = 0
        self.record_bytes = 0
        self.rejected = 0
        """Records that a worker would put into the dead letters."""

    def take(self, record: Record) -> list[AssembledTrace]:
        """Take the next record; what is finished by now."""
        traces = self.tick(record.timestamp)
        self.records += 1
        self.record_bytes += len(record.value or b"")
        lane = self._lanes.get(record.partition)
        if lane is None:
            lane = self._lanes[record.partition] = _Lane(self._settings)
        meta = read_meta(record.headers)
        self._accept(lane, lane.decoder.take(record, meta, self.now_ms), traces)
        return traces

    def tick(self, now_ms: int) -> list[AssembledTrace]:
        """It has become later; what is finished by that."""
        self.now_ms = max(self.now_ms, now_ms)
        traces: list[AssembledTrace] = []
        if self.now_ms - self._ticked_ms < _TICK_MS:
            return traces
        self._ticked_ms = self.now_ms
        for lane in self._lanes.values():
            self._accept(lane, lane.decoder.expire(self.now_ms), traces)
            traces += lane.assembler.expire(self.now_ms)
        assemblers = [lane.assembler for lane in self._lanes.values()]
        traces += [
            trace for _, trace in shed(assemblers, self._settings.assemble.bytes_max).written
        ]
        return traces

    def drain(self) -> list[AssembledTrace]:
        """What is not finished where the records end."""
        return [trace for lane in self._lanes.values() for trace in lane.assembler.drain()]

    def _accept(
        self, lane: _Lane, outcomes: Iterable[Outcome], traces: list[AssembledTrace]
    ) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Decoded):
                trace = lane.assembler.add(outcome, self.now_ms)
                if trace is not None:
                    traces.append(trace)
            elif isinstance(outcome, Rejected):
                self.rejected += len(outcome.positions)
