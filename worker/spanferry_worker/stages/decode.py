"""decode: a record becomes an event, waits as a piece of one, or is rejected with a reason."""

from collections import OrderedDict
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from spanferry_schemas import (
    Assessment,
    Chunk,
    Fragment,
    RecordMeta,
    Rejection,
    RejectReason,
    Report,
    decode,
    join_chunks,
)
from spanferry_schemas.limits import CHUNK_NESTING_MAX
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.footprint import PIECE_BYTES
from spanferry_worker.stages.trace import Position

__all__ = [
    "ChunkJoiner",
    "ChunkPolicy",
    "DeadReason",
    "Decoded",
    "Decoder",
    "Outcome",
    "Rejected",
    "Reported",
    "Settled",
]


class DeadReason(StrEnum):
    """Why records that decode one by one go to the dead letters all the same."""

    CHUNKS_INCOMPLETE = "chunks_incomplete"
    """Pieces of a value did not come within `chunk_age_s`."""
    CHUNKS_MISMATCH = "chunks_mismatch"
    """The pieces of one group do not belong together."""
    CHUNKS_TOO_BIG = "chunks_too_big"
    """The whole would be larger than the worker may hold."""
    CHUNKS_NESTED = "chunks_nested"
    """Chunks within chunks, deeper than the wire allows."""
    REFUSED = "refused"
    """The store can never take the trace."""
    NO_TRACE = "no_trace"
    """Feedback or tags whose trace is not in MLflow, and did not come in `write.absent_s`."""
    NO_EXPERIMENT = "no_experiment"
    """The app has named an experiment that does not exist, or is deleted."""


class Decoded(NamedTuple):
    """An event, the records it came in, their bytes, and a key that a repeat of it shares."""

    event: Fragment | Assessment
    positions: list[Position]
    size: int
    origin: bytes | None = None


class Rejected(NamedTuple):
    """Records for the dead letters. `record` is given where the bytes are at hand (one position)."""

    reason: RejectReason | DeadReason
    message: str
    positions: list[Position]
    record: Record | None = None


class Settled(NamedTuple):
    """Records that need nothing more: pieces of a value that was decided before."""

    positions: list[Position]


class Reported(NamedTuple):
    """A producer's report, which concerns no trace."""

    report: Report
    positions: list[Position]


Outcome = Decoded | Rejected | Settled | Reported


class ChunkPolicy(Struct, frozen=True, kw_only=True):
    """How much may wait for its missing pieces, and how long."""

    chunk_bytes_max: int = 64 * 1024 * 1024
    """What incomplete values of one partition may take in memory; one that claims more is rejected at
    once."""
    chunk_age_s: float = 60.0
    """A value not complete after this goes to the dead letters, piece by piece."""

    def __post_init__(self) -> None:
        if self.chunk_bytes_max < 1 or self.chunk_age_s <= 0:
            raise ValueError("chunk_bytes_max and chunk_age_s must be above 0")


class _Group:
    """The pieces of one value so far."""

    __slots__ = ("depth", "first_ms", "held_bytes", "pieces", "positions", "size")

    def __init__(self, now_ms: int) -> None:
        self.first_ms = now_ms
        self.pieces: dict[int, Chunk] = {}
        self.positions: list[Position] = []
        self.held_bytes = 0
        self.size = 0
        self.depth = 0

    def is_tail(self) -> bool:
        """Only the first pieces are missing."""
        first = min(self.pieces)
        return 0 < first == self.pieces[first].count - len(self.pieces)


class ChunkJoiner:
    """Puts the chunked values of one partition together again. Bounded in bytes and in age.

    `resumed` says that the partition goes on at a committed offset, at `started_ms`: then a value
    whose first pieces lie before it was decided as a whole before, and what comes again of its tail
    is settled, not dead.
    """

    _JOINED_MAX = 4_096
    """Group ids remembered, so that a resent piece of a joined value does not open a new group."""

    def __init__(self, policy: ChunkPolicy, *, started_ms: int, resumed: bool = False) -> None:
        self._policy = policy
        self._started_ms = started_ms
        self.resumed = resumed
        self._age_ms = int(policy.chunk_age_s * 1000)
        self._groups: OrderedDict[bytes, _Group] = OrderedDict()
        self._joined: OrderedDict[bytes, None] = OrderedDict()
        self.held_bytes = 0

    def add(self, chunk: Chunk, positions: list[Position], size: int, now_ms: int) -> list[Outcome]:
        """Take a piece, which the records at `positions` brought; the event if it is the last one."""
        return self._add(chunk, positions, size, now_ms, depth=1)

    def _add(
        self, chunk: Chunk, positions: list[Position], size: int, now_ms: int, *, depth: int
    ) -> list[Outcome]:
        if chunk.group_id in self._joined:
            return [Settled(positions)]
        refusal = self._refusal(chunk, depth)
        if refusal is not None:
            return [Rejected(*refusal, positions)]
        group = self._groups.get(chunk.group_id)
        if group is None:
            group = self._groups[chunk.group_id] = _Group(now_ms)
        group.positions += positions
        group.depth = max(group.depth, depth)
        if chunk.index not in group.pieces:
            group.pieces[chunk.index] = chunk
            group.size += size
            held_bytes = len(chunk.data) + PIECE_BYTES
            group.held_bytes += held_bytes
            self.held_bytes += held_bytes
        if len(group.pieces) == chunk.count:
            return self._join(chunk.group_id, now_ms)
        shed: list[Outcome] = []
        while self.held_bytes > self._policy.chunk_bytes_max:
            shed += self.drop_oldest("so that the worker stays within decode.chunk_bytes_max")
        return shed

    def _refusal(self, chunk: Chunk, depth: int) -> tuple[DeadReason, str] | None:
        if depth > CHUNK_NESTING_MAX:
            message = f"chunks within chunks, more than {CHUNK_NESTING_MAX} deep"
            return DeadReason.CHUNKS_NESTED, message
        if chunk.total_bytes + chunk.count * PIECE_BYTES > self._policy.chunk_bytes_max:
            message = (
                f"{chunk.total_bytes} bytes in {chunk.count} pieces, but decode.chunk_bytes_max is "
                f"{self._policy.chunk_bytes_max}: raise it to take such traces"
            )
            return DeadReason.CHUNKS_TOO_BIG, message
        return None

    def _join(self, group_id: bytes, now_ms: int) -> list[Outcome]:
        group = self._take(group_id)
        pieces = list(group.pieces.values())
        group.pieces.clear()
        value = join_chunks(pieces)
        pieces.clear()  # once, twice is enough: the value is decoded into a third copy
        if value is None:
            message = "the pieces claim different counts or sizes"
            return [Rejected(DeadReason.CHUNKS_MISMATCH, message, group.positions)]
        self._joined[group_id] = None
        if len(self._joined) > self._JOINED_MAX:
            self._joined.popitem(last=False)
        event = decode(value)
        if isinstance(event, Rejection):
            return [Rejected(event.reason, event.message, group.positions)]
        if isinstance(event, Report):
            message = "a report in pieces"
            return [Rejected(RejectReason.INVALID, message, group.positions)]
        if isinstance(event, Chunk):
            return self._add(event, group.positions, group.size, now_ms, depth=group.depth + 1)
        return [Decoded(event, group.positions, group.size, group_id)]

    def _take(self, group_id: bytes) -> _Group:
        group = self._groups.pop(group_id)
        self.held_bytes -= group.held_bytes
        return group

    def expire(self, now_ms: int) -> list[Outcome]:
        """What has waited for its missing pieces for too long."""
        outcomes: list[Outcome] = []
        while self._groups:
            group = next(iter(self._groups.values()))
            if now_ms - group.first_ms < self._age_ms:
                break
            outcomes += self.drop_oldest(f"within {self._policy.chunk_age_s:g} s")
        return outcomes

    def drop_oldest(self, limit: str) -> list[Outcome]:
        """Give up the value that has waited longest; nothing where none waits."""
        if not self._groups:
            return []
        group = self._take(next(iter(self._groups)))
        replayed = group.first_ms - self._started_ms < self._age_ms
        if self.resumed and replayed and group.is_tail():
            return [Settled(group.positions)]
        count = next(iter(group.pieces.values())).count
        message = f"{len(group.pieces)} of {count} pieces came {limit}"
        return [Rejected(DeadReason.CHUNKS_INCOMPLETE, message, group.positions)]


class Decoder:
    """Records of one partition to events. One for every assignment."""

    def __init__(self, policy: ChunkPolicy, *, resumed: bool = False) -> None:
        self._policy = policy
        self._resumed = resumed
        self._joiner: ChunkJoiner | None = None

    def resume(self) -> None:
        """The partition turned out to go on at a committed offset."""
        self._resumed = True
        if self._joiner is not None:
            self._joiner.resumed = True

    def take(self, record: Record, meta: RecordMeta | None, now_ms: int) -> list[Outcome]:
        """What the record gives: nothing while pieces are missing. `now_ms`: the partition's time."""
        value = record.value
        if self._joiner is None:
            self._joiner = ChunkJoiner(self._policy, started_ms=now_ms, resumed=self._resumed)
        event = decode(value)
        position = Position(record.topic, record.partition, record.offset)
        if isinstance(event, Rejection):
            return [Rejected(event.reason, event.message, [position], record)]
        size = len(value) if value else 0
        if isinstance(event, Chunk):
            outcomes = self._joiner.add(event, [position], size, now_ms)
            return [_with_bytes(outcome, record, position) for outcome in outcomes]
        if isinstance(event, Report):
            return [Reported(event, [position])]
        origin = None if meta is None else meta.producer_id + meta.sequence.to_bytes(8, "big")
        return [Decoded(event, [position], size, origin)]

    def expire(self, now_ms: int) -> list[Outcome]:
        """What has waited for its missing pieces for too long, by the partition's time."""
        return [] if self._joiner is None else self._joiner.expire(now_ms)

    def drop_oldest(self, limit: str) -> list[Outcome]:
        """Give up the value that has waited longest for its pieces; nothing where none waits."""
        return [] if self._joiner is None else self._joiner.drop_oldest(limit)

    @property
    def held_bytes(self) -> int:
        """What pieces that wait take in memory."""
        return 0 if self._joiner is None else self._joiner.held_bytes


def _with_bytes(outcome: Outcome, record: Record, position: Position) -> Outcome:
    """Give a rejection of this one record its bytes."""
    if isinstance(outcome, Rejected) and outcome.positions == [position]:
        return outcome._replace(record=record)
    return outcome
