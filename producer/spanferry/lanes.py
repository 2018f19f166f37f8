"""Lanes: what is staged for one partition, in order, with its sequence. One batch at a time is out.

No I/O here: the sender builds a batch from a lane, and tells the lane how it went.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from msgspec import Struct

from spanferry.murmur import murmur2
from spanferry.parcel import Whole
from spanferry.records import Record
from spanferry.spool.entries import Origin
from spanferry.spool.segments import Ticket

__all__ = ["Fate", "Lane", "Lanes", "Ledger", "Receipt", "Staged"]


class Fate(Enum):
    """How a parcel leaves our hands."""

    SENT = "sent"
    SPOOLED = "spooled"
    DROPPED = "dropped"


class Receipt(Struct, gc=False):
    """One parcel on its way: `open` counts its records that Kafka has not acknowledged yet, plus
    one while the parcel is still being staged."""

    serial: int
    """0 where it was read back from the spool: nobody waits for it, and the buffer knows nothing."""
    size: int
    ends_trace: bool
    open: int = 1
    fate: Fate = Fate.SENT
    ticket: Ticket | None = None
    """Where it stands in the spool, if it does."""
    whole: Whole | None = None
    """Its trace's, where that has other parcels."""
    numbered: bool = False
    """One of its records has been in a batch, under a name that is in memory alone."""


class Staged(Struct, gc=False):
    """A record in a lane. `sequence` is -1 until it first entered a batch, and always for one with
    an origin, which goes under that name again."""

    record: Record
    receipt: Receipt
    sequence: int = -1
    origin: Origin | None = None


class Ledger:
    """Parcels taken from the buffer and not settled yet, oldest first."""

    def __init__(self, settled: Callable[[Receipt], None]) -> None:
        """`settled` is called once for each parcel whose last record is off our hands."""
        self._settled = settled
        self._open: OrderedDict[int, Receipt] = OrderedDict()
        self._serial = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def taken(self) -> int:
        """Serial of the newest parcel taken."""
        return self._serial

    @property
    def traces_kept(self) -> int:
        """Ends of traces that are in memory and on disk. Any thread may ask."""
        return sum(
            receipt.ends_trace and receipt.ticket is not None
            for receipt in list(self._open.values())
        )

    def enter(self, *, size: int, ends_trace: bool, whole: Whole | None = None) -> Receipt:
        """A parcel was taken; close its staging with `finish` once all its records are staged."""
        self._serial += 1
        receipt = Receipt(self._serial, size, ends_trace, whole=whole)
        self._open[receipt.serial] = receipt
        return receipt

    def enter_again(self, *, size: int, ends_trace: bool, ticket: Ticket) -> Receipt:
        """An entry was read back from the spool; close its staging with `finish` too."""
        return Receipt(0, size, ends_trace, ticket=ticket)

    def finish(self, receipt: Receipt) -> None:
        """One record of the parcel, or its staging, is done."""
        receipt.open -= 1
        if receipt.open == 0 and (
            receipt.serial == 0 or self._open.pop(receipt.serial, None) is not None
        ):
            self._settled(receipt)

    def settled_up_to(self, serial: int) -> bool:
        """Whether every parcel up to and including `serial` was taken and settled."""
        if self._serial < serial:
            return False
        return not self._open or next(iter(self._open)) > serial


class Lane:
    """The records of one partition that wait, in the order in which they must arrive."""

    def __init__(self, partition: int, next_sequence: int = 0) -> None:
        self.partition = partition
        self.waiting: deque[Staged] = deque()
        self.busy = False
        self.waiting_bytes = 0
        self.next_sequence = next_sequence
        self.acknowledged = 0
        """Own records that Kafka has: those numbered below."""

    def push(self, staged: Staged) -> None:
        """Append a record."""
        self.waiting.append(staged)
        self.waiting_bytes += len(staged.record.value)

    def pop(self) -> Staged | None:
        """The next record, with its sequence; None where none waits."""
        if not self.waiting:
            return None
        staged = self.waiting.popleft()
        self.waiting_bytes -= len(staged.record.value)
        if staged.sequence < 0 and staged.origin is None:
            staged.sequence = self.next_sequence
            staged.receipt.numbered = True
            self.next_sequence += 1
        return staged

    def put_back(self, batch: Iterable[Staged]) -> None:
        """Records that may or may not have arrived: they go out again under the same sequence."""
        for staged in reversed(list(batch)):
            self.waiting.appendleft(staged)
            self.waiting_bytes += len(staged.record.value)

    def settled(self, batch: Iterable[Staged]) -> None:
        """Kafka has acknowledged these."""
        for staged in batch:
            if staged.sequence >= self.acknowledged:
                self.acknowledged = staged.sequence + 1

    def free(self, unsent: list[Staged]) -> None:
        """Records that certainly did not arrive, the newest numbered: their numbers are free again.

        Where later ones are given out already, to records that may have arrived, each keeps its own.
        """
        numbered = [staged.sequence for staged in unsent if staged.sequence >= 0]
        if numbered and numbered[-1] + 1 == self.next_sequence:
            self.next_sequence = numbered[0]
            for staged in unsent:
                staged.sequence = -1

    def put_back_unsent(self, batch: Iterable[Staged]) -> None:
        """Records that certainly did not arrive: their sequence numbers are free again."""
        unsent = list(batch)
        self.free(unsent)
        self.put_back(unsent)

    def clear(self) -> list[Staged]:
        """Everything that waits, for another lane: the partition is gone."""
        everything = list(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        return everything


class Lanes:
    """The lanes of the topic's partitions."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._partitions: list[int] = []
        self._sequences: dict[int, tuple[int, int]] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def open(self, partitions: list[int]) -> None:
        """The topic has these partitions now; what waits for others finds new lanes."""
        self._partitions = sorted(partitions)
        gone = [lane for number, lane in self._lanes.items() if number not in partitions]
        for number in partitions:
            if number not in self._lanes:
                following, acknowledged = self._sequences.pop(number, (0, 0))
                self._lanes[number] = Lane(number, following)
                self._lanes[number].acknowledged = acknowledged
        for lane in gone:
            del self._lanes[lane.partition]
            # If it ever comes back.
            self._sequences[lane.partition] = lane.next_sequence, lane.acknowledged
            for staged in lane.clear():
                staged.sequence, staged.origin = -1, None
                self.push(staged)

    def push(self, staged: Staged) -> None:
        """Into the lane of its key, or of its origin as long as the topic has that partition."""
        origin = staged.origin
        lane = None if origin is None else self._lanes.get(origin.partition)
        if lane is None:
            staged.origin = None
            lane = self.of_key(staged.record.key)
        lane.push(staged)

    def of_key(self, key: bytes) -> Lane:
        """Kafka's default partitioner, so that every producer of a trace finds the same one."""
        number = (murmur2(key) & 0x7FFFFFFF) % len(self._partitions)
        return self._lanes[self._partitions[number]]

    @property
    def acknowledged(self) -> tuple[tuple[int, int], ...]:
        """Partitions that have had own records, each with how many Kafka has acknowledged."""
        gone = ((number, count) for number, (_, count) in self._sequences.items())
        lanes = ((lane.partition, lane.acknowledged) for lane in self._lanes.values())
        return tuple(sorted(one for one in (*lanes, *gone) if one[1]))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of all records that wait."""
        return sum(lane.waiting_bytes for lane in self._lanes.values())

    @property
    def any_idle(self) -> bool:
        """Whether a lane has nothing to do."""
        return any(not lane.waiting and not lane.busy for lane in self._lanes.values())
