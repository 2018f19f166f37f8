"""What simulated apps send, and what must become of every record of it."""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from spanferry_schemas import (
    RecordKind,
    RecordMeta,
    Report,
    write_meta,
)
from spanferry_worker.stages.trace import Position
from tests.simulation.plan import WORK_S, Plan
from tests.simulation.shapes import Sending, Shapes, cut
from tests.worker.events import T0_MS, number

__all__ = ["App", "Numbered", "Workload"]

_JUNK = (b"\x01junk", b"", None, b"\x07later", b"\x01\x93\x09\x01\x02")


class Numbered(NamedTuple):
    """A record that has its number, and the time by its app's clock; Kafka may not have it yet."""

    partition: int
    sequence: int
    value: bytes | None
    key: bytes
    kind: RecordKind
    stamp_ms: int


class App:
    """A producer: its id, its numbers in each partition, its clock."""

    def __init__(self, name: int, partitions: int, produce: Callable[..., Position]) -> None:
        self.producer_id = number(name + 1, 8)
        self._sequences = [0] * partitions
        self._acknowledged = [0] * partitions
        self._came: set[tuple[int, int]] = set()
        self._produce = produce
        self.clock_s = 0.0

    @property
    def produced(self) -> int:
        """Numbers given, in all partitions."""
        return sum(self._sequences)

    def report(self, now_s: float) -> Report:
        """What it says of itself: up to which number the broker has acknowledged any."""
        acknowledged = tuple((n, count) for n, count in enumerate(self._acknowledged) if count)
        made_ns = int((T0_MS / 1000 + now_s + self.clock_s) * 1e9)
        return Report(self.producer_id, made_ns, acknowledged=acknowledged)

    def number(self, value: bytes | None, key: bytes, kind: RecordKind, now_s: float) -> Numbered:
        """Give a record the next number of its partition."""
        partition = sum(key) % len(self._sequences)
        sequence = self._sequences[partition]
        self._sequences[partition] += 1
        stamp_ms = T0_MS + int((now_s + self.clock_s) * 1000)
        return Numbered(partition, sequence, value, key, kind, stamp_ms)

    def deliver(self, record: Numbered) -> tuple[Position, str]:
        """Kafka gets a record: its place, and in words whether it is there before or was overtaken."""
        partition, sequence, value, key, kind, stamp_ms = record
        name = (partition, sequence)
        word = ", out of order" if sequence < self._acknowledged[partition] else ""
        word = ", again" if name in self._came else word
        self._came.add(name)
        self._acknowledged[partition] = max(self._acknowledged[partition], sequence + 1)
        header = write_meta(RecordMeta(self.producer_id, sequence, kind))
        place = self._produce(
            value, key=key, headers=(header,), timestamp_ms=stamp_ms, partition=partition
        )
        return place, word


class Workload:
    """Draws traces of every kind; `sendings` are in the order of their times."""

    def __init__(self, plan: Plan) -> None:
        self._chance = Random(f"work {plan.seed}")
        self._ways = Random(f"ways {plan.seed}")
        self._record_bytes_max = plan.record_bytes_max
        shapes = Shapes(self._chance, plan.record_bytes_max)
        self.refused = shapes.refused
        self.junk: list[tuple[float, bytes | None]] = []
        self.sendings: list[Sending] = []
        for trace in range(1, plan.traces + 1):
            self.sendings += shapes.draw(number(trace), self._moment())
        for _ in range(self._chance.choice((0, 0, 1, 3))):
            self.junk.append((self._moment(), self._chance.choice(_JUNK)))
        self.sendings += self._repeats()
        self.sendings.sort(key=lambda one: one.at_s)

    def _moment(self) -> float:
        return self._chance.uniform(0.0, WORK_S)

    def _repeats(self) -> Iterator[Sending]:
        """Some come twice, as when an app did not hear that Kafka had them; some are overtaken."""
        for one in self.sendings:
            if self._chance.random() < 0.05:
                one.again_s = self._ways.choice((0.0, 0.0, 0.3, 1.2))
            if self._ways.random() < 0.08:
                one.late_s = self._ways.choice((0.02, 0.3, 1.0))
            if self._chance.random() < 0.08 and one.lost_piece is None:
                yield Sending(one.at_s + self._chance.choice((0.01, 0.4)), 9, one.event, one.facts)

    def pieces(self, sending: Sending) -> list[tuple[int, bytes]]:
        """The record values of a sending, numbered, without the lost one."""
        values = cut(sending.event, self._chance.randbytes(8), self._record_bytes_max)
        return [pair for pair in enumerate(values) if pair[0] != sending.lost_piece]
