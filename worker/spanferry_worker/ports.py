"""What the runtime needs of the outside, as protocols with more than one implementation each."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple, Protocol

from spanferry_schemas import Assessment
from spanferry_worker.stages.accounts import Entry, Kept
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import AssembledTrace, Position

__all__ = [
    "Clock",
    "DeadLetter",
    "DeadLetterLog",
    "DroppedLog",
    "FleetLog",
    "KeptAccounts",
    "LedgerLog",
    "Partition",
    "PartitionOwner",
    "RecordLog",
    "Sink",
]


class Sink(Protocol):
    """Where traces are stored: MLflow's SQL store, its HTTP API, or a test's memory.

    One task calls it, `write` may be called again only after it returned unless `concurrency` > 1.
    """

    @property
    def concurrency(self) -> int:
        """How many `write` calls may run at once."""
        ...

    async def open(self) -> None:
        """Connect and check versions. Raises TransientError (try again) or FatalError (never)."""
        ...

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        """Store every trace of the batch, durably and idempotently: a repeat changes nothing.

        A trace that is already stored is merged with what comes (spans by span id, tags and
        metadata over the old ones, assessments by assessment id). After a return all of the batch
        is durable. Raises TransientError: retry the same batch, not before its `retry_after_s`. Raises
        PoisonError: at least one trace can never be stored; the caller bisects, so a batch of one
        names the culprit. PartlyRefusedError names them itself: all others of the batch are durable.

        The trace ids of a batch are distinct, and no other batch with one of them is under way.
        """
        ...

    async def marks(self, trace_ids: Sequence[bytes]) -> Mapping[bytes, Mapping[str, str]]:
        """What those of the traces that are stored say of their sampling: metadata, maybe none, by id.

        It may be called while `write` is under way. Raises TransientError and PoisonError.
        """
        ...

    async def marks_of_request(
        self, assessment: Assessment
    ) -> tuple[bytes, Mapping[str, str]] | None:
        """The same of the trace that `write` would find by the assessment's client request id, with its id.

        None where there is none, or one that has the assessment already.
        """
        ...

    async def close(self) -> None:
        """Release connections. Never raises."""
        ...


class Clock(Protocol):
    """What time it is."""

    def now_ms(self) -> int:
        """Milliseconds since 1970; never goes back within a process."""
        ...


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class PartitionOwner(Protocol):
    """Who is told by a RecordLog which partitions are its own."""

    def assigned(self, partitions: frozenset[Partition]) -> None:
        """These are now ours, from their committed offset on. Called before any of their records."""
        ...

    def resumed(self, committed: Mapping[Partition, int], notes: Mapping[Partition, str]) -> None:
        """Those of the assigned ones that go on at an offset that was committed before, with it, and
        what was noted beside it.

        Called after `assigned`, also where there is none.
        """
        ...

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        """These are about to go. What is committed before this returns still counts."""
        ...


class RecordLog(Protocol):
    """The traces' topic, as one member of a consumer group reads it.

    Errors are TransientError (try again; the log may need `close` and `open`) or FatalError.
    """

    async def open(self, owner: PartitionOwner) -> None:
        """Join the group. May be called again after `close`."""
        ...

    async def poll(
        self, *, timeout_s: float, records_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        """The next records in order of their offsets; none where nothing came in time.

        Must be called at least every few minutes to stay in the group, also while paused.
        """
        ...

    def pause(self) -> None:
        """No more records until `resume`."""
        ...

    def resume(self) -> None:
        """Records again, from where `pause` stopped them."""
        ...

    def caught_up(self, partition: Partition) -> bool:
        """Whether everything that lies in the partition was polled, as of the last seconds."""
        ...

    async def lag(self) -> Mapping[Partition, int]:
        """How many records of each own partition were not polled yet, asked of the broker."""
        ...

    async def commit(
        self, offsets: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None
    ) -> bool:
        """Commit, with notes for whoever goes on there; False where the partitions are not ours any more."""
        ...

    async def read(self, positions: Sequence[Position]) -> list[Record]:
        """These very records, apart from the group; those that Kafka has removed are missing."""
        ...

    async def close(self) -> None:
        """Leave the group. Never raises."""
        ...


class DeadLetter(NamedTuple):
    """A record that could not be stored: its original content, and why."""

    record: Record
    reason: str
    message: str
    failed_at_ms: int


class DeadLetterLog(Protocol):
    """The topic for what cannot be stored."""

    async def open(self) -> None:
        """Connect; create the topic where it is missing. Raises TransientError or FatalError."""
        ...

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when every one is acknowledged by all replicas. Raises TransientError, FatalError."""
        ...

    async def close(self) -> None:
        """Release connections. Never raises."""
        ...


class KeptAccounts(NamedTuple):
    """What a LedgerLog holds, and one past the last record of each partition asked for."""

    kept: Sequence[Kept]
    ends: Mapping[Partition, int]


class LedgerLog(Protocol):
    """Where the accounts of records are kept. Errors are TransientError or FatalError."""

    async def open(self) -> None:
        """Connect; create the topic where it is missing."""
        ...

    async def load(self, partitions: Sequence[Partition]) -> KeptAccounts:
        """The newest of everything that was saved, other partitions' and groups' perhaps too."""
        ...

    async def save(self, entries: Sequence[Entry]) -> None:
        """Returns when every one is acknowledged by all replicas."""
        ...

    async def close(self) -> None:
        """Release connections. Never raises."""
        ...


class FleetLog(Protocol):
    """One log of small records that all workers of a group write and read in the same order.

    Errors are TransientError (`close` and `open` may help) or FatalError.
    """

    async def open(self) -> None:
        """Connect, create the topic where it is missing, and begin at what is retained of it."""
        ...

    async def read(self, *, timeout_s: float) -> Sequence[bytes | None]:
        """The values of the next records; none where nothing came in time."""
        ...

    def caught_up(self) -> bool:
        """Whether all was read that lay there at `open`."""
        ...

    async def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write keys and values; returns when all replicas have them."""
        ...

    async def close(self) -> None:
        """Release connections. Never raises."""
        ...


class DroppedLog(Protocol):
    """Where it is written down which traces were dropped: for each partition of the traces a log.

    Errors are TransientError (`close` and `open` may help) or FatalError.
    """

    async def open(self) -> None:
        """Connect; create the topic where it is missing, and give it as many partitions as the traces'."""
        ...

    async def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Write values to partitions; returns when all replicas have them."""
        ...

    def tail(self, partition: int) -> AsyncGenerator[Sequence[Record]]:
        """What lies in a partition now, in portions: the newest first, in each in order."""
        ...

    async def close(self) -> None:
        """Release connections. Never raises."""
        ...
