"""A consumer group in memory as Kafka has it: heartbeats, sessions, generations, eager rebalances."""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Partition, PartitionOwner
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import Position
from spanferry_worker.testing.broker import MemoryBroker, MemoryRecord

__all__ = ["Beat", "GroupLog", "MemoryGroup", "Share", "Wire"]


class Beat(Enum):
    """The coordinator's answer to a heartbeat."""

    WELL = "well"
    REBALANCE = "rebalance"
    """Somebody comes or goes: give up everything and join again."""
    UNKNOWN = "unknown"
    """Not a member any more."""


class Share(Struct, frozen=True):
    """What a member is given by a rebalance."""

    member_id: int
    generation: int
    partitions: list[Partition]


class MemoryGroup:
    """The coordinator of one group on a MemoryBroker.

    A member that is not heard of for `session_s` is out; one that does not join again within
    `rebalance_s` of a rebalance's begin, too. Who is out commits nothing any more.
    """

    def __init__(self, broker: MemoryBroker, *, session_s: float, rebalance_s: float) -> None:
        self.broker = broker
        self.generation = 0
        self._session_s = session_s
        self._rebalance_s = rebalance_s
        self._heard: dict[int, float] = {}
        self._joined: dict[int, asyncio.Future[Share]] = {}
        self._deadline: asyncio.TimerHandle | None = None
        self._ids = 0
        # The coordinator is nobody's process: what it waits for goes on when a member dies.
        self._context = contextvars.copy_context()

    @property
    def members(self) -> list[int]:
        """Who belongs to it."""
        return list(self._heard)

    def join(self, member_id: int | None) -> asyncio.Future[Share]:
        """Come in, or come in again; the answer waits until all have, or their time is over."""
        loop = asyncio.get_running_loop()
        if member_id is None or member_id not in self._heard:
            self._ids += 1
            member_id = self._ids
            self._heard[member_id] = loop.time()
            self._watch(member_id, self._session_s)
        answer: asyncio.Future[Share] = loop.create_future()
        self._joined[member_id] = answer
        self.rebalance()
        if self._joined.keys() == self._heard.keys():
            self._deal()
        return answer

    def rebalance(self) -> None:
        """Have everybody join again."""
        if self._deadline is None and self._heard:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._rebalance_s, self._deal, context=self._context)

    def _deal(self) -> None:
        """Deal out the partitions among those who have joined; whoever has not is out."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        joined, self._joined = self._joined, {}
        now = asyncio.get_running_loop().time()
        self._heard = dict.fromkeys(joined, now)
        self.generation += 1
        for index, (member_id, answer) in enumerate(joined.items()):
            mine = [
                partition
                for partition in self.broker.partitions
                if (partition.partition + self.generation) % len(joined) == index
            ]
            if not answer.done():
                answer.set_result(Share(member_id, self.generation, mine))

    def beat(self, member_id: int, generation: int) -> Beat:
        """A member is alive."""
        if member_id not in self._heard or generation != self.generation:
            return Beat.UNKNOWN
        self._heard[member_id] = asyncio.get_running_loop().time()
        return Beat.WELL if self._deadline is None else Beat.REBALANCE

    def commit(
        self,
        member_id: int,
        generation: int,
        offsets: Mapping[Partition, int],
        notes: Mapping[Partition, str],
    ) -> bool:
        """Take offsets of a member whose generation stands, also while a rebalance begins."""
        if member_id not in self._heard or generation != self.generation:
            return False
        self.broker.commit(offsets, notes)
        return True

    def expel(self, member_id: int | None) -> None:
        """A member goes: by itself, or because it was not heard of."""
        if member_id is None or self._heard.pop(member_id, None) is None:
            return
        self._joined.pop(member_id, None)
        self.rebalance()
        if self._joined.keys() == self._heard.keys():
            self._deal()

    def _watch(self, member_id: int, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, self._look, member_id, context=self._context)

    def _look(self, member_id: int) -> None:
        heard = self._heard.get(member_id)
        if heard is None:
            return
        silent_s = asyncio.get_running_loop().time() - heard
        if member_id in self._joined:
            silent_s = 0.0
        if silent_s >= self._session_s:
            self.expel(member_id)
        else:
            self._watch(member_id, self._session_s - silent_s + 0.001)


class Wire:
    """The way from a member to the broker. A test may give one that delays, fails or is cut."""

    def lives(self) -> bool:
        """Whether anything still gets through."""
        return True

    async def trip(self, what: str) -> None:
        """One way of a request or an answer, named `call.asked` or `call.answered`.

        May wait, raise TransientError, and never return.
        """


class GroupLog:
    """A RecordLog as a member of a MemoryGroup, built as aiokafka's consumer is.

    A task of its own gives up partitions and joins again; heartbeats go on meanwhile. What it knows of a
    partition's end is what the last poll said, and counts for `fresh_s`.
    """

    def __init__(
        self,
        group: MemoryGroup,
        *,
        heartbeat_s: float,
        fresh_s: float = 5.0,
        wire: Wire | None = None,
    ) -> None:
        self._group = group
        self._broker = group.broker
        self._heartbeat_s = heartbeat_s
        self._fresh_s = fresh_s
        self._wire = wire or Wire()
        self._member_id: int | None = None
        self._generation = 0
        self._positions: dict[Partition, int] = {}
        self._ends: dict[Partition, tuple[int, float]] = {}
        self._paused: set[Partition] = set()
        self._moving = True
        """A rebalance is on, or we are no member: no records."""
        self._rejoin = asyncio.Event()
        self._coordination: asyncio.Task[None] | None = None
        self._beating: asyncio.TimerHandle | None = None
        self.polled_bytes_max = 0
        """What the greatest poll has brought."""

    async def open(self, owner: PartitionOwner) -> None:
        """See RecordLog."""
        await self._wire.trip("open.asked")
        self._rejoin.clear()
        await self._join(owner)
        loop = asyncio.get_running_loop()
        self._coordination = loop.create_task(self._coordinate(owner))
        self._beating = loop.call_later(self._heartbeat_s, self._beat)

    async def _join(self, owner: PartitionOwner) -> None:
        try:
            share = await self._group.join(self._member_id)
            self._member_id, self._generation = share.member_id, share.generation
            await self._wire.trip("join.answered")
        except TransientError:
            await asyncio.sleep(self._heartbeat_s)
            self._rejoin.set()
            return
        committed, first = self._broker.committed, self._broker.first_offsets
        self._paused.clear()
        self._positions = {
            one: max(committed.get(one, 0), first[one.partition]) for one in share.partitions
        }
        self._moving = False
        owner.assigned(frozenset(share.partitions))
        resumed, notes = self._broker.resumed(share.partitions)
        try:
            await self._wire.trip("committed.answered")
        except TransientError:
            resumed = {}
        owner.resumed(resumed, notes)

    async def _coordinate(self, owner: PartitionOwner) -> None:
        while True:
            await self._rejoin.wait()
            self._moving = True
            self._ends.clear()
            await owner.revoked(frozenset(self._positions))
            self._positions = {}
            self._rejoin.clear()
            await self._join(owner)

    def _beat(self) -> None:
        if self._wire.lives() and self._member_id is not None:
            answer = self._group.beat(self._member_id, self._generation)
            if answer is Beat.UNKNOWN:
                self._member_id = None
                self._rejoin.set()
            elif answer is Beat.REBALANCE and not self._moving:
                self._rejoin.set()
        loop = asyncio.get_running_loop()
        self._beating = loop.call_later(self._heartbeat_s, self._beat)

    async def poll(
        self, *, timeout_s: float, records_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """See RecordLog. Does not suspend where there are records."""
        if self._coordination is None:
            raise TransientError("not connected")
        if self._coordination.done():
            self._coordination.result()
        await self._wire.trip("poll.asked")
        found = self._next(records_max)
        if not found:
            await self._broker.wait(timeout_s)
            found = self._next(records_max)
        self.polled_bytes_max = max(
            self.polled_bytes_max,
            sum(len(one.value or b"") for records in found.values() for one in records),
        )
        return found

    def _next(self, records_max: int) -> dict[Partition, list[MemoryRecord]]:
        found: dict[Partition, list[MemoryRecord]] = {}
        if self._moving:
            return found
        now = asyncio.get_running_loop().time()
        for partition, position in self._positions.items():
            place = self._broker.records[partition.partition]
            if partition in self._paused or records_max <= 0:
                continue
            records = place[position : position + records_max]
            self._ends[partition] = len(place), now
            if records:
                found[partition] = records
                records_max -= len(records)
                self._positions[partition] += len(records)
        return found

    def pause(self) -> None:
        """See RecordLog. Partitions that come by a rebalance are not paused."""
        self._paused.update(self._positions)

    def resume(self) -> None:
        """See RecordLog."""
        self._paused.clear()

    def caught_up(self, partition: Partition) -> bool:
        """See RecordLog."""
        end, heard = self._ends.get(partition, (-1, 0.0))
        fresh = asyncio.get_running_loop().time() - heard < self._fresh_s
        return fresh and self._positions.get(partition) == end

    async def lag(self) -> Mapping[Partition, int]:
        """See RecordLog."""
        await self._wire.trip("lag.asked")
        records = self._broker.records
        return {p: len(records[p.partition]) - offset for p, offset in self._positions.items()}

    async def commit(
        self, offsets: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None
    ) -> bool:
        """See RecordLog. The request names member and generation as of when it is sent."""
        member_id, generation = self._member_id, self._generation
        if member_id is None or not offsets.keys() <= self._positions.keys():
            return False
        await self._wire.trip("commit.asked")
        done = self._group.commit(member_id, generation, offsets, notes or {})
        await self._wire.trip("commit.answered")
        return done

    async def read(self, positions: Sequence[Position]) -> list[Record]:
        """See RecordLog."""
        await self._wire.trip("read.asked")
        return self._broker.read(positions)

    async def close(self) -> None:
        """Leave the group."""
        if self._beating is not None:
            self._beating.cancel()
        if self._coordination is not None:
            self._coordination.cancel()
            await asyncio.wait([self._coordination])
            self._coordination = None
        if self._wire.lives():
            self._group.expel(self._member_id)
        self._member_id = None
        self._positions = {}
        self._moving = True
