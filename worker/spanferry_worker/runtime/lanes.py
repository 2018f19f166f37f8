"""A lane: all that a worker knows of one partition for as long as it owns it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from spanferry_schemas import read_meta
from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Partition
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import UNNUMBERED, Books, Outcome
from spanferry_worker.stages.assemble import Assembler
from spanferry_worker.stages.commit import OffsetTracker
from spanferry_worker.stages.consume import PartitionClock, Record, Room, SequenceLedger
from spanferry_worker.stages.decode import Decoded, Decoder, Rejected, Reported
from spanferry_worker.stages.decode import Outcome as DecodeOutcome
from spanferry_worker.stages.ledger import Ledger
from spanferry_worker.stages.note import RECORDS_MAX, Decided, read_note, write_note
from spanferry_worker.stages.overload import shed
from spanferry_worker.stages.trace import AssembledTrace, Position

__all__ = ["Gained", "Lane", "Lanes", "LogWentBackError"]

_ids = count(1)


class LogWentBackError(TransientError):
    """Offsets came again in one assignment: Kafka has lost the end of the partition."""


class Gained(Struct):
    """What a step of lanes gave: traces to be decided, records for the dead letters."""

    traces: list[tuple[AssembledTrace, "Lane"]] = []
    rejected: list[tuple[Rejected, "Lane"]] = []
    good: int = 0
    """Records that gave an event or a piece of one."""
    replayed: int = 0
    """Records that belong to what was decided before."""
    cut: int = 0
    """Open traces whose payloads were cut so that the worker holds less."""


class Lane:
    """One partition during one assignment. Forgotten as a whole when the partition goes."""

    def __init__(self, partition: Partition, settings: Settings, room: Room) -> None:
        self.lane_id = next(_ids)
        self.partition = partition
        self.clock = PartitionClock()
        chunks = min(settings.decode.chunk_bytes_max, room.waiting_bytes_max)
        self.decoder = Decoder(replace(settings.decode, chunk_bytes_max=chunks))
        self.assembler = Assembler(settings.assemble)
        self.tracker = OffsetTracker()
        self.ledger = SequenceLedger()
        self.books = Ledger(settings.ledger, Books(settings.kafka.group, *partition))
        self.resumed_at: int | None = None
        """The committed offset that it goes on at, once that is known and if there is one."""
        self.has_news = False
        """Whether anything was decided since the last commit."""
        self._decided_before: Decided | None = None
        self.kept: bool | None = None
        """Whether its books are kept in Kafka; None as long as that is not known."""
        self.committed: int | None = None
        """What the broker has, or where we began: that is not committed before anything moves."""
        self.newest_ms = 0
        """When the record taken last was produced."""
        self.unread = 0
        """Records that lie behind it in Kafka, as far as that was asked."""

    def take(self, records: Sequence[Record], wall_ms: int, gained: Gained) -> int:
        """Decode and assemble records; their bytes. The hot loop.

        Raises LogWentBackError; then the lane is of no use any more.
        """
        size = passed_over = 0
        if self.committed is None:
            self.committed = records[0].offset
        clock, ledger, tracker, books = self.clock, self.ledger, self.tracker, self.books
        for record in records:
            if not tracker.begin(record.offset, record.timestamp):
                raise LogWentBackError(
                    f"{self.partition.topic} partition {self.partition.partition} went back to "
                    f"offset {record.offset} from {tracker.next_offset}"
                )
            now_ms = clock.record(record.timestamp, wall_ms)
            self.newest_ms = record.timestamp
            meta = read_meta(record.headers)
            if meta is None:
                books.read(record.offset, UNNUMBERED, -1, record.timestamp)
            else:
                ledger.saw(meta)
                books.read(record.offset, meta.producer_id, meta.sequence, record.timestamp)
            if record.value:
                size += len(record.value)
            if self._decided_before is not None and self._passes_over(record.offset):
                passed_over += 1
                continue
            self._accept(self.decoder.take(record, meta, now_ms), now_ms, gained)
        gained.good += len(records) - passed_over
        self.unread = max(0, self.unread - len(records))
        return size

    def go_on(self, offset: int, note: str) -> None:
        """It goes on at this committed offset, beside which that was noted."""
        self.resumed_at = offset
        self.decoder.resume()
        self._decided_before = before = read_note(offset, note)
        if before is not None:
            for read in self.tracker.open_offsets(before.end):
                self._passes_over(read)

    def _passes_over(self, offset: int) -> bool:
        """Whether a record that is read again was decided; then it is."""
        before = self._decided_before
        assert before is not None
        if offset >= before.end:
            self._decided_before = None
            return False
        outcome = before.of(offset)
        if outcome is not Outcome.UNDECIDED:
            self.books.decided([offset], outcome)
            self.tracker.done([offset])
        return outcome is not Outcome.UNDECIDED

    def note(self, watermark: int) -> str:
        """What is decided from there on."""
        return write_note(self.books.window.outcomes_from(watermark, RECORDS_MAX))

    def expire(self, gained: Gained, open_max: int) -> int:
        """Let go of what has waited long enough, by the partition's own time, of open traces no more
        than `open_max`; how many traces these are, late additions among them."""
        now_ms = self.clock.now_ms
        self._accept(self.decoder.expire(now_ms), now_ms, gained)
        traces = self.assembler.expire(now_ms, open_max)
        gained.traces += [(trace, self) for trace in traces]
        return len(traces)

    def drop_oldest_chunks(self, gained: Gained) -> None:
        """Give up the value that has waited longest for its pieces."""
        outcomes = self.decoder.drop_oldest("before the worker held too much")
        self._accept(outcomes, self.clock.now_ms, gained)

    def _accept(self, outcomes: Iterable[DecodeOutcome], now_ms: int, gained: Gained) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Decoded):
                trace = self.assembler.add(outcome, now_ms)
                if trace is not None:
                    gained.traces.append((trace, self))
            elif isinstance(outcome, Rejected):
                gained.rejected.append((outcome, self))
                gained.good -= len(outcome.positions)
            elif isinstance(outcome, Reported):
                self.books.tell(outcome.report)
                self.settle(outcome.positions, Outcome.REPORT)
            else:
                gained.replayed += len(outcome.positions)
                self.settle(outcome.positions, Outcome.SETTLED)

    def settle(self, positions: Sequence[Position], outcome: Outcome) -> None:
        """Records are decided for good: their offsets may be committed."""
        offsets = [position.offset for position in positions]
        self.has_news = True
        self.books.decided(offsets, outcome)
        self.tracker.done(offsets)

    @property
    def held_bytes(self) -> int:
        """What waits here takes in memory."""
        return self.assembler.held_bytes + self.decoder.held_bytes

    def oldest_ms(self, waiting: int) -> int | None:
        """When the oldest record was produced that is neither durable nor decided; None: none is.

        `waiting`: how many records are not read yet. Of these no time is known; they are at most as
        old as what was read last.
        """
        oldest_ms = self.tracker.oldest_ms
        if oldest_ms is None and waiting and self.newest_ms:
            return self.newest_ms
        return oldest_ms

    def due(self) -> int | None:
        """The offset to commit, if it has moved."""
        watermark = self.tracker.watermark()
        return None if watermark == self.committed else watermark

    def news_at(self) -> int | None:
        """The offset to commit where something was decided since the last commit."""
        return self.tracker.watermark() if self.has_news else None


class Lanes:
    """The lanes of the partitions that are ours now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.room = Room(settings.consume)
        """For what all of them hold, and what comes after them."""
        self._by_partition: dict[Partition, Lane] = {}
        self._by_id: dict[int, Lane] = {}
        self.joining_since_ms: int | None = None
        """Since when the group has dealt out nothing, not even "none"; None while it has."""

    def open(self, partition: Partition) -> None:
        """A partition became ours."""
        lane = Lane(partition, self._settings, self.room)
        self._by_partition[partition] = lane
        self._by_id[lane.lane_id] = lane
        self._share()

    def close(self, partitions: Iterable[Partition]) -> frozenset[int]:
        """Forget partitions; the ids of their lanes."""
        gone = [self._by_partition.pop(p) for p in partitions if p in self._by_partition]
        for lane in gone:
            del self._by_id[lane.lane_id]
        self._share()
        return frozenset(lane.lane_id for lane in gone)

    def _share(self) -> None:
        """Divide what the process may remember among its partitions."""
        remembered_max = self._settings.assemble.released_traces_max
        for lane in self._by_partition.values():
            lane.assembler.released_max = remembered_max // len(self._by_partition)

    def of(self, partition: Partition) -> Lane | None:
        """The lane of a partition, if it is ours."""
        return self._by_partition.get(partition)

    def owned(self, lane_id: int) -> Lane | None:
        """The lane with this id, if its assignment still stands."""
        return self._by_id.get(lane_id)

    def __iter__(self) -> Iterator[Lane]:
        return iter(tuple(self._by_partition.values()))

    @property
    def partitions(self) -> frozenset[Partition]:
        """What is ours."""
        return frozenset(self._by_partition)

    @property
    def held_bytes(self) -> int:
        """What waits in all lanes takes in memory."""
        return sum(lane.held_bytes for lane in self._by_partition.values())

    def shed(self, gained: Gained) -> None:
        """Make open traces stay within `assemble.bytes_max`, and with chunks within the room to wait."""
        lanes = list(self._by_partition.values())
        assemblers = [lane.assembler for lane in lanes]
        chunks = sum(lane.decoder.held_bytes for lane in lanes)
        waiting_bytes_max = self.room.waiting_bytes_max
        left = max(0, waiting_bytes_max - chunks)
        done = shed(assemblers, min(self._settings.assemble.bytes_max, left))
        gained.cut += done.cut
        gained.traces += [(trace, lanes[index]) for index, trace in done.written]
        while chunks > waiting_bytes_max:
            fullest = max(lanes, key=lambda lane: lane.decoder.held_bytes)
            fullest.drop_oldest_chunks(gained)
            chunks = sum(lane.decoder.held_bytes for lane in lanes)
