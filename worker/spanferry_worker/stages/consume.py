"""consume: how much to take from Kafka, what time it is in a partition, and what was missed."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from spanferry_schemas import RecordMeta

__all__ = [
    "FlowGate",
    "FlowPolicy",
    "MeanSize",
    "PartitionClock",
    "PollSizer",
    "Record",
    "Room",
    "SequenceLedger",
    "StallDetector",
]


class Record(Protocol):
    """A Kafka record as the stages read it; aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, by the producer's clock or the broker's."""
        ...

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class FlowPolicy(Struct, frozen=True, kw_only=True):
    """How much a worker may hold and take at once."""

    held_bytes_max: int = 256 * 1024 * 1024
    """What records that are not stored yet take in memory, as objects and rows; above it intake
    pauses. Less where `process.memory_bytes_max` leaves less."""
    resume_ratio: float = 0.5
    """Intake goes on once this part of `held_bytes_max` is left."""
    poll_records_max: int = 100
    """Records taken at once, so that the loop never works for long without a heartbeat, and records
    that suddenly are large do not come by the hundred."""
    poll_bytes_max: int = 8 * 1024 * 1024
    """Bytes to aim at in one poll, by the average size of the records before."""

    def __post_init__(self) -> None:
        if not 0 < self.resume_ratio < 1:
            raise ValueError("resume_ratio must lie between 0 and 1: try 0.5")
        if self.poll_records_max < 1 or self.poll_bytes_max < 1:
            raise ValueError("poll_records_max and poll_bytes_max must be at least 1")
        if self.held_bytes_max < self.poll_bytes_max:
            raise ValueError("held_bytes_max must be at least poll_bytes_max")


class Room:
    """How much may be held: what the policy says, or less where less memory is left."""

    __slots__ = ("_policy", "held_bytes_max")

    def __init__(self, policy: FlowPolicy) -> None:
        self._policy = policy
        self.held_bytes_max = policy.held_bytes_max

    @property
    def waiting_bytes_max(self) -> int:
        """Of that, what may wait for more to come, so that intake goes on one day."""
        return int(self.held_bytes_max * self._policy.resume_ratio)

    def fit(self, left_bytes: int) -> bool:
        """Hold no more than what is left; False where that is too little for one poll, which is held then."""
        poll_bytes = self._policy.poll_bytes_max
        self.held_bytes_max = min(self._policy.held_bytes_max, max(left_bytes, poll_bytes))
        return left_bytes >= poll_bytes


class FlowGate:
    """Whether intake may go on: closes above the limit, opens again well below it."""

    __slots__ = ("_room", "closed")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.closed = False

    def update(self, held_bytes: int) -> bool:
        """True where intake must wait."""
        limit = self._room.waiting_bytes_max if self.closed else self._room.held_bytes_max
        self.closed = held_bytes > limit
        return self.closed


class PollSizer:
    """How many records to ask for, so that a poll brings about `poll_bytes_max`."""

    __slots__ = ("_average", "_policy")

    def __init__(self, policy: FlowPolicy) -> None:
        self._policy = policy
        self._average = 16.0 * 1024

    def saw(self, records: int, size: int) -> None:
        """What the last poll brought."""
        if records:
            self._average += (size / records - self._average) * 0.25

    @property
    def records(self) -> int:
        """The answer for the next poll, at least 1."""
        fitting = int(self._policy.poll_bytes_max / max(self._average, 1.0))
        return max(1, min(self._policy.poll_records_max, fitting))


class MeanSize:
    """The mean size of the records read last: of at most `window`, and of half as many at least."""

    __slots__ = ("_bytes", "_records", "_window")

    def __init__(self, window: int = 20_000) -> None:
        self._window = window
        self._records = 0.0
        self._bytes = 0.0

    def saw(self, records: int, size: int) -> None:
        """Records were read, and how many bytes they are together."""
        self._records += records
        self._bytes += size
        if self._records > self._window:
            factor = self._window / 2 / self._records
            self._records *= factor
            self._bytes *= factor

    @property
    def mean_bytes(self) -> float | None:
        """Bytes a record; None before anything was read."""
        return self._bytes / self._records if self._records else None


class PartitionClock:
    """What time it is in a partition, in milliseconds; it never goes back.

    While records wait in Kafka the newest record read says how late it is, so that a trace is not
    called idle because we are slow. Once the partition is read to its end the wall clock goes on.
    A record from the future (a producer's clock is wrong) counts as now.
    """

    __slots__ = ("now_ms",)

    def __init__(self) -> None:
        self.now_ms = 0

    def record(self, timestamp_ms: int, wall_ms: int) -> int:
        """A record was read; returns the partition's time."""
        self.now_ms = max(self.now_ms, min(timestamp_ms, wall_ms))
        return self.now_ms

    def caught_up(self, wall_ms: int) -> int:
        """Nothing waits in Kafka; returns the partition's time."""
        self.now_ms = max(self.now_ms, wall_ms)
        return self.now_ms


class SequenceLedger:
    """Gaps and repeats in the producers' numbering of one partition.

    The table of producers is bounded: the one not heard of for longest is forgotten, and starts
    anew if it comes again. The first number seen of a producer is taken as it is.
    """

    __slots__ = ("_last", "_producers_max", "missing", "repeated")

    def __init__(self, producers_max: int = 10_000) -> None:
        self._last: OrderedDict[bytes, int] = OrderedDict()
        self._producers_max = producers_max
        self.missing = 0
        """Numbers that were skipped."""
        self.repeated = 0

    def saw(self, meta: RecordMeta) -> None:
        """A record with a readable header was read."""
        last = self._last.pop(meta.producer_id, None)
        sequence = meta.sequence
        if last is None:
            last = sequence
        elif sequence > last:
            self.missing += sequence - last - 1
            last = sequence
        else:
            self.repeated += 1
        self._last[meta.producer_id] = last
        if len(self._last) > self._producers_max:
            self._last.popitem(last=False)


class StallDetector:
    """Finds partitions where records wait and none is read."""

    def __init__(self, stall_s: float) -> None:
        self._stall_ms = int(stall_s * 1000)
        self._seen: dict[tuple[str, int], tuple[int | None, int]] = {}

    def reset(self) -> None:
        """Intake stands on purpose, or begins anew: nothing before counts."""
        self._seen.clear()

    def look(
        self, state: Mapping[tuple[str, int], tuple[int | None, int]], now_ms: int
    ) -> list[tuple[str, int]]:
        """The partitions that stand. `state`: the last offset read, and how many records wait."""
        stalled: list[tuple[str, int]] = []
        seen: dict[tuple[str, int], tuple[int | None, int]] = {}
        for partition, (offset, waiting) in state.items():
            before, since_ms = self._seen.get(partition, (None, now_ms))
            if not waiting or offset != before:
                since_ms = now_ms
            seen[partition] = (offset, since_ms)
            if now_ms - since_ms >= self._stall_ms:
                stalled.append(partition)
        self._seen = seen
        return stalled
