"""What a worker remembers of traces that were cut or dropped, for as long as it owns their partition."""

from collections.abc import Iterable
from typing import Final

from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.stages.sample import Index, Known, Sampled, entries
from spanferry_worker.stages.trace import Position

__all__ = ["Remembered"]

_OWN: Final = "own"
_READ: Final = "read"


class Remembered:
    """Two memories for each lane: what was decided or learnt since it began, and what the topic of dropped
    traces said then. Together they are bounded in bytes."""

    def __init__(self, parts: Parts, lanes: Lanes, bytes_max: int) -> None:
        self._parts = parts
        self._lanes = lanes
        self._index = Index(bytes_max)

    def put(self, lane: Lane, trace_id: bytes, sampled: Sampled) -> None:
        """This was decided on a trace, or on more of it; positions are added to those known."""
        topic, number = lane.partition
        offsets = [one.offset for one in sampled.positions if one[:2] == (topic, number)]
        if len(offsets) < len(sampled.positions):
            offsets = []
        some = entries(trace_id, sampled.outcome, offsets, sampled.weight)
        self._index.add((lane.lane_id, _OWN), some, self._parts.clock.now_ms())

    def put_read(self, lane: Lane, some: Iterable[bytes], made_ms: int) -> None:
        """These entries were written down by this time."""
        self._index.add_older((lane.lane_id, _READ), some, made_ms)

    def own(self, lane: Lane, trace_id: bytes) -> Sampled | None:
        """What was decided, or learnt, on a trace in this assignment."""
        return _sampled(lane, self._index.find((lane.lane_id, _OWN), trace_id))

    def dropped(self, lane: Lane, trace_id: bytes) -> Sampled | None:
        """What the topic of dropped traces says of it."""
        return _sampled(lane, self._index.find((lane.lane_id, _READ), trace_id))

    def is_whole(self, lane: Lane) -> bool:
        """Whether nothing had to be forgotten of what was decided in this assignment."""
        return not self._index.forgot((lane.lane_id, _OWN))

    def read_bytes(self, lane: Lane) -> int:
        """What is held of what the topic said."""
        return self._index.place_bytes((lane.lane_id, _READ))

    def forget_lost(self) -> None:
        """Forget the lanes that are gone."""
        self._index.keep((lane.lane_id, kind) for lane in self._lanes for kind in (_OWN, _READ))

    def show(self) -> None:
        """Set the gauge of what all this takes."""
        self._parts.metrics.sample.remembered.set(self._index.held_bytes)


def _sampled(lane: Lane, known: Known | None) -> Sampled | None:
    if known is None:
        return None
    positions = tuple(Position(*lane.partition, offset) for offset in known.offsets)
    return Sampled(known.outcome, known.weight, positions)
