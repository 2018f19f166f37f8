"""What must hold, whatever happens: looked at with every commit and at the end."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from spanferry_schemas import Assessment, Fragment, Report, Span
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.ports import DeadLetter, Partition
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.stages.accounts import Outcome as Fate
from spanferry_worker.stages.decode import DeadReason
from spanferry_worker.stages.giants import OVERLOAD_KEY
from spanferry_worker.stages.note import Decided
from spanferry_worker.stages.sample import Outcome, decode_decisions, read_outcome
from spanferry_worker.stages.statement import COUNTED, Statement
from spanferry_worker.stages.trace import Position
from spanferry_worker.testing import MemoryBroker, MemoryDropped, MemorySink, StoredTrace
from tests.simulation.shapes import TURN, Facts

__all__ = ["Audit"]


class Audit:
    """Knows what every record says, and looks whether it has arrived."""

    def __init__(
        self,
        broker: MemoryBroker,
        store: MemorySink,
        dropped: MemoryDropped,
        tell: Callable[[str, str], None],
        *,
        unsaid_bytes_max: int,
    ) -> None:
        """`unsaid_bytes_max`: previews up to this may be of a piece that the policy has cut, and what came
        for its trace later was kept whole, by somebody who did not know of that."""
        self._unsaid_bytes_max = unsaid_bytes_max
        self._broker = broker
        self._store = store
        self._dropped = dropped
        self._tell = tell
        self._facts: dict[Position, Facts] = {}
        self._dead: set[Position] = set()
        self._pieces: dict[Position, int] = {}
        # By value, the last piece of it that was given up without the rest.
        self._given_up: dict[int, int] = {}
        self._sampled: set[Position] = set()
        self._sampled_values: set[int] = set()
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        """Something is wrong."""
        self.problems.append(text)
        self._tell("AUDIT", text)

    def produced(self, place: Position, facts: Facts, value: int | None = None) -> None:
        """The broker has acknowledged a record; `value`: the number of the value it is a piece of."""
        self._facts[place] = facts
        if value is not None:
            self._pieces[place] = value

    def sampled(self, places: Sequence[Position]) -> None:
        """The policy has dropped a trace of these records."""
        self._sampled.update(places)
        self._sampled_values.update(self._pieces[one] for one in places if one in self._pieces)

    def letter(self, letter: DeadLetter) -> None:
        """The dead letters have acknowledged one."""
        record = letter.record
        place = Position(record.topic, record.partition, record.offset)
        original = self._broker.records[record.partition][record.offset]
        same = (record.value, record.key, list(record.headers)) == (
            original.value,
            original.key,
            list(original.headers),
        )
        if not same:
            self.problem(f"the dead letter of {place} is not what the record was")
        facts = self._facts[place]
        if not (facts.must_die or facts.may_die):
            self.problem(f"{place} went to the dead letters ({letter.reason}: {letter.message})")
        self._dead.add(place)
        if letter.reason == DeadReason.CHUNKS_INCOMPLETE and place in self._pieces:
            self._given_up[self._pieces[place]] = max(
                place.offset, self._given_up.get(self._pieces[place], 0)
            )

    def commit(self, partition: Partition, before: int, offset: int) -> None:
        """Offsets are about to count: below them everything must have arrived."""
        if offset < before:
            self.problem(f"{partition.partition}: the commit went back from {before} to {offset}")
        for each in range(before, offset):
            place = Position(partition.topic, partition.partition, each)
            missing = self._missing(place)
            if missing:
                self.problem(
                    f"{offset} is committed, but of {partition.partition}/{each} {missing}"
                )

    def noted(self, partition: Partition, decided: Decided) -> None:
        """What is said to be decided above a commit must have arrived too.

        But a piece that came twice: whoever goes on reads those that came first.
        """
        for each in range(decided.start, decided.end):
            if decided.of(each) in {Fate.UNDECIDED, Fate.SETTLED}:
                continue
            missing = self._missing(Position(partition.topic, partition.partition, each))
            if missing:
                self.problem(f"{partition.partition}/{each} is noted as decided, but {missing}")

    def _missing(self, place: Position) -> str | None:
        """What of a record has arrived nowhere."""
        missing = self._not_stored(place)
        if missing and place in self._sampled:
            return None if _is_written_down(place, self._dropped) else "nobody knows it was dropped"
        # A piece that comes again when its value is decided already belongs to what was dropped.
        return None if self._pieces.get(place) in self._sampled_values else missing

    def _not_stored(self, place: Position) -> str | None:
        facts = self._facts[place]
        if place in self._dead or self._is_given_up(place):
            return None
        event = facts.event
        if isinstance(event, Report):
            return None
        if facts.must_die:
            return "there is no dead letter"
        if isinstance(event, Assessment):
            return None if any(_owners(self._store, event)) else f"{event.assessment_id} is lost"
        assert isinstance(event, Fragment)
        stored = self._store.stored.get(event.trace_id)
        if stored is None:
            return "the whole trace is lost"
        unsaid = _cut_without_mark(stored, event, self._unsaid_bytes_max)
        return next(iter((*_lacking(stored, event), *unsaid)), None)

    def _is_given_up(self, place: Position) -> bool:
        """Whether it is the tail of a value whose first pieces have died alone.

        A worker that goes on at a committed offset cannot tell such a tail from that of a value which
        was decided as a whole: it passes over it.
        """
        value = self._pieces.get(place)
        return value is not None and place.offset > self._given_up.get(value, place.offset)

    def uncommitted(self) -> dict[int, tuple[int, int]]:
        """By partition, what is committed and where it ends."""
        return {
            partition.partition: (self._broker.committed.get(partition, 0), len(records))
            for partition, records in zip(
                self._broker.partitions, self._broker.records, strict=True
            )
            if self._broker.committed.get(partition, 0) != len(records)
        }

    def memory(self, name: str, pipeline: Pipeline, polled_bytes_max: int) -> None:
        """What is read and not decided, counted from the records themselves."""
        # The worker counts objects in memory: of these small records up to forty times their bytes. What
        # is being written counts twice.
        limit = 2 * pipeline._settings.consume.held_bytes_max + 40 * polled_bytes_max
        counted = pipeline.intake.held_bytes
        # Of what waits for the dead letters only the positions are held.
        dying = {place for case in pipeline.office._cases for place in case.rejected.positions}
        held = sum(
            len(self._broker.records[lane.partition.partition][offset].value or b"")
            for lane in pipeline.lanes
            for offset in lane.tracker._open
            if Position(*lane.partition, offset) not in dying
        )
        if max(counted, held) > limit:
            self.problem(f"{name} holds {held} bytes (counted {counted}), allowed are {limit:.0f}")

    def at_the_end(self, refused: set[bytes]) -> None:
        """Everything is decided: nothing is lost, nothing is there twice, nothing was made up."""
        for place in self._facts:
            missing = self._missing(place)
            if missing:
                self.problem(f"at the end, of {place.partition}/{place.offset} {missing}")
        sent = [facts.event for facts in self._facts.values()]
        fragments = [event for event in sent if isinstance(event, Fragment)]
        spans = {(event.trace_id, span.span_id) for event in fragments for span in event.spans}
        counted = Counter[str]()
        for trace_id, stored in self._store.stored.items():
            counted.update(stored.assessments.keys())
            if trace_id in refused:
                self.problem("a trace is stored that the store has refused")
            for span_id in stored.spans:
                if (trace_id, span_id) not in spans:
                    self.problem(f"a span is stored that nobody sent: {span_id.hex()}")
        for assessment_id, times in counted.items():
            if times > 1:
                self.problem(f"{assessment_id} is stored {times} times")

    def books(self, statement: Statement, *, undisturbed: bool, right_clocks: bool) -> None:
        """The ledger adds up, and misses nothing; nothing is missing.

        `undisturbed`: it was there whenever it was wanted, and can tell of every record. Where it was not,
        it goes by `right_clocks` when it says that a number is missing and not only unaccounted.
        """
        for row in statement.wrong:
            known = sum(getattr(row, name) for name in COUNTED[1:-1])
            if undisturbed or right_clocks or row.produced != known:
                self.problem(f"the ledger does not add up: {row}")
        if statement.totals.in_flight:
            self.problem(f"the ledger has {statement.totals.in_flight} in flight at the end")
        if undisturbed and statement.totals.unaccounted:
            self.problem(f"the ledger cannot tell of {statement.totals.unaccounted} records")

    def in_order(self) -> None:
        """What was said of a trace again and again stands as it was said last."""
        said: dict[bytes, list[str]] = {}
        gone = set[bytes]()
        for place, facts in sorted(self._facts.items(), key=lambda each: each[0]):
            event = facts.event
            if place in self._sampled:
                gone.add(getattr(event, "trace_id", b""))
            if isinstance(event, Fragment) and event.trace and TURN in event.trace.tags:
                said.setdefault(event.trace_id, []).append(event.trace.tags[TURN])
        for trace_id, turns in said.items():
            stored = self._store.stored.get(trace_id)
            if (
                stored is None or trace_id in gone or len(set(turns)) < len(turns)
            ):  # or repeated late
                continue
            there = stored.trace.tags.get(TURN)
            if there != turns[-1]:
                self.problem(f"trace {int.from_bytes(trace_id)} has turn {there} after {turns}")


def _owners(store: MemorySink, event: Assessment) -> Iterable[StoredTrace]:
    stored = store.stored.values()
    return (one for one in stored if event.assessment_id in one.assessments)


def _is_written_down(place: Position, dropped: MemoryDropped) -> bool:
    """Whether the log of dropped traces has a record of a dropped one."""
    end = place.offset.to_bytes(7, "big")
    return any(
        block[at + 17 : at + 24] == end
        for record in dropped.records.get(place.partition, ())
        for block in [decode_decisions(record.value, "spanferry")]
        for at in range(0, len(block), 24)
    )


def _lacking(stored: StoredTrace, event: Fragment) -> Iterable[str]:
    for span in event.spans:
        there = stored.spans.get(span.span_id)
        if there is None:
            yield f"{span.name} is lost"
        elif not _same(there, span):
            yield f"{span.name} is stored as {there}"
    skeleton = read_outcome(stored.trace.metadata) is Outcome.SKELETON
    for attachment in () if skeleton else event.attachments:
        if attachment.attachment_id not in stored.attachments:
            yield f"attachment {attachment.attachment_id} is lost"
    part = event.trace
    if part is not None:
        for key, value in part.tags.items():
            if key != TURN and stored.trace.tags.get(key) != value:
                yield f"tag {key} is lost"


def _same(there: Span, sent: Span) -> bool:
    """Whether a stored span is what was sent, its skeleton, or the same one after its end."""
    if not sent.end_ns and there.end_ns:
        return there.start_ns == sent.start_ns
    if CUT_ATTRIBUTE in there.attributes:
        sizes = msgspec.json.decode(there.attributes[CUT_ATTRIBUTE], type=dict[str, int])
        return (there.name, there.end_ns) == (sent.name, sent.end_ns) and all(
            there.attributes[name] == value or sizes.get(name) == len(value)
            for name, value in sent.attributes.items()
        )
    return there == sent


def _cut_without_mark(stored: StoredTrace, event: Fragment, unsaid_bytes_max: int) -> Iterable[str]:
    """A trace says why payloads of it are cut: the worker held too much, or the policy wants it so."""
    metadata = stored.trace.metadata
    if OVERLOAD_KEY in metadata or read_outcome(metadata) is Outcome.SKELETON:
        return
    for span in event.spans:
        there = stored.spans.get(span.span_id)
        if there is None or CUT_ATTRIBUTE not in there.attributes:
            continue
        if max(len(there.attributes[name]) for name in span.attributes) > unsaid_bytes_max:
            yield f"{span.name} is cut, and its trace does not say so"
