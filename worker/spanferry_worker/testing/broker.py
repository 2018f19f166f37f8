"""A Kafka in memory: partitions, offsets, consumer groups that rebalance eagerly, dead letters."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Clock, DeadLetter, Partition, PartitionOwner
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import Position

__all__ = ["MemoryBroker", "MemoryDeadLetters", "MemoryLog", "MemoryRecord"]


@dataclass(frozen=True)
class MemoryRecord:
    """A record as it lies in a partition."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = field(default_factory=tuple)


class MemoryBroker:
    """One topic, one consumer group."""

    def __init__(
        self, clock: Clock, *, topic: str = "spanferry.traces", partitions: int = 1
    ) -> None:
        self._clock = clock
        self.topic = topic
        self.records: list[list[MemoryRecord]] = [[] for _ in range(partitions)]
        self.first_offsets = [0] * partitions
        """Set by a test that lets retention remove records."""
        self.committed: dict[Partition, int] = {}
        self.notes: dict[Partition, str] = {}
        """Beside what is committed."""
        self._members: list[MemoryLog] = []
        self._moving = asyncio.Lock()
        self.arrived = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], None] = {}

    def commit(self, offsets: Mapping[Partition, int], notes: Mapping[Partition, str]) -> None:
        """What the group has committed."""
        self.committed.update(offsets)
        self.notes.update({one: notes.get(one, "") for one in offsets})

    def resumed(
        self, partitions: Iterable[Partition]
    ) -> tuple[dict[Partition, int], dict[Partition, str]]:
        """Where those of these go on of which something is committed, and what is noted there."""
        found = {one: self.committed[one] for one in partitions if one in self.committed}
        return found, {one: self.notes.get(one, "") for one in found}

    @property
    def partitions(self) -> list[Partition]:
        """Every partition."""
        return [Partition(self.topic, number) for number in range(len(self.records))]

    def produce(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> Position:
        """Append a record; without a partition, by its key."""
        if partition is None:
            partition = sum(key or b"") % len(self.records)
        place = self.records[partition]
        stamp = self._clock.now_ms() if timestamp_ms is None else timestamp_ms
        record = MemoryRecord(self.topic, partition, len(place), stamp, key, value, headers)
        place.append(record)
        self.arrived.set()
        for waiter in self._waiting:
            _release(waiter)
        return Position(self.topic, partition, record.offset)

    async def wait(self, timeout_s: float) -> None:
        """Until a record comes, or the time is over."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout_s, _release, waiter)
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            del self._waiting[waiter]
            timer.cancel()

    def read(self, positions: Sequence[Position]) -> list[Record]:
        """These records, as far as retention has left them."""
        return [
            self.records[number][offset]
            for _, number, offset in positions
            if number < len(self.records)
            and self.first_offsets[number] <= offset < len(self.records[number])
        ]

    async def join(self, member: "MemoryLog") -> None:
        """A member comes: everyone gives up everything, then all is dealt out again."""
        await self._rebalance([*self._members, member], member)

    async def leave(self, member: "MemoryLog") -> None:
        """A member goes, having given up nothing properly: as after a stop or a crash."""
        if member in self._members:
            rest = [each for each in self._members if each is not member]
            await self._rebalance(rest, member)

    async def _rebalance(self, members: "list[MemoryLog]", cause: "MemoryLog") -> None:
        async with self._moving:
            for member in self._members:
                if member is not cause:
                    await member.lose()
            self._members = members
            for index, member in enumerate(members):
                member.gain([p for p in self.partitions if p.partition % len(members) == index])


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemoryLog:
    """A RecordLog on a MemoryBroker. A test may set `poll_failures` and `deaf` (nothing comes)."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._owner: PartitionOwner | None = None
        self._positions: dict[Partition, int] = {}
        self._paused = False
        self.poll_failures = 0
        self.deaf = False
        self.opened = 0

    async def open(self, owner: PartitionOwner) -> None:
        """Join the group."""
        self._owner = owner
        self._paused = False
        self.opened += 1
        await self._broker.join(self)

    async def lose(self) -> None:
        """The broker takes everything away."""
        if self._owner is not None and self._positions:
            await self._owner.revoked(frozenset(self._positions))
        self._positions.clear()

    def gain(self, partitions: Sequence[Partition]) -> None:
        """The broker deals out partitions."""
        committed = self._broker.committed
        first = self._broker.first_offsets
        self._positions = {p: max(committed.get(p, 0), first[p.partition]) for p in partitions}
        if self._owner is not None:
            self._owner.assigned(frozenset(partitions))
            self._owner.resumed(*self._broker.resumed(partitions))

    async def poll(
        self, *, timeout_s: float, records_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """The next records of all partitions; does not suspend where there are any."""
        if self.poll_failures:
            self.poll_failures -= 1
            raise TransientError("the broker is away")
        if not (found := self._next(records_max)):
            self._broker.arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._broker.arrived.wait()
            except TimeoutError:
                return {}
            found = self._next(records_max)
        return found

    def _next(self, records_max: int) -> dict[Partition, list[MemoryRecord]]:
        found: dict[Partition, list[MemoryRecord]] = {}
        if self._paused or self.deaf:
            return found
        for partition, position in self._positions.items():
            records = self._broker.records[partition.partition][position : position + records_max]
            if records:
                found[partition] = records
                records_max -= len(records)
                self._positions[partition] += len(records)
            if records_max <= 0:
                break
        return found

    def pause(self) -> None:
        """See RecordLog."""
        self._paused = True

    def resume(self) -> None:
        """See RecordLog."""
        self._paused = False

    def caught_up(self, partition: Partition) -> bool:
        """See RecordLog."""
        return self._positions.get(partition) == len(self._broker.records[partition.partition])

    async def lag(self) -> Mapping[Partition, int]:
        """See RecordLog."""
        records = self._broker.records
        return {p: len(records[p.partition]) - offset for p, offset in self._positions.items()}

    async def commit(
        self, offsets: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None
    ) -> bool:
        """See RecordLog."""
        if not offsets.keys() <= self._positions.keys():
            return False
        self._broker.commit(offsets, notes or {})
        return True

    async def read(self, positions: Sequence[Position]) -> list[Record]:
        """See RecordLog."""
        return self._broker.read(positions)

    async def close(self) -> None:
        """Leave the group."""
        self._owner = None
        self._positions.clear()
        await self._broker.leave(self)


class MemoryDeadLetters:
    """A DeadLetterLog in memory. A test may set `transient_failures`."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.transient_failures = 0

    async def open(self) -> None:
        """See DeadLetterLog."""

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """See DeadLetterLog."""
        await asyncio.sleep(0)
        if self.transient_failures:
            self.transient_failures -= 1
            raise TransientError("the dead letters are away")
        self.letters += letters

    async def close(self) -> None:
        """See DeadLetterLog."""
