"""The simulation can fail: a worker, or a double, that is broken on purpose is found within few seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest
from msgspec.structs import replace

from spanferry_schemas import Span
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.ports import Partition
from spanferry_worker.runtime.books import Bookkeeper
from spanferry_worker.runtime.dead_letters import DeadLetterOffice
from spanferry_worker.runtime.decider import Decider
from spanferry_worker.runtime.drops import Drops
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.recall import Recall
from spanferry_worker.runtime.writer import Writer
from spanferry_worker.stages import assemble
from spanferry_worker.stages.accounts import Account, Kept, Place
from spanferry_worker.stages.accounts import Outcome as Fate
from spanferry_worker.stages.assemble import Assembler
from spanferry_worker.stages.commit import OffsetTracker
from spanferry_worker.stages.consume import FlowGate, PartitionClock
from spanferry_worker.stages.decode import ChunkJoiner, Settled
from spanferry_worker.stages.giants import OVERLOAD_KEY, Giants
from spanferry_worker.stages.ledger import Ledger, Window
from spanferry_worker.stages.sample import Decision, DecisionReason, Outcome, Sampler, Table
from spanferry_worker.stages.trace import AssembledTrace, Position
from spanferry_worker.stages.write import Bisection, Queued, WriteQueue
from spanferry_worker.testing import MemoryGroup, MemorySink
from tests.simulation.ports import SinkPort
from tests.simulation.run import explain, run_seed

SEEDS_MAX = 300

Patch = pytest.MonkeyPatch


def commits_before_the_write(patch: Patch) -> None:
    add = Writer.add

    def early(self: Writer, trace: AssembledTrace, lane: Lane) -> None:
        lane.tracker.done(position.offset for position in trace.positions)
        add(self, trace, lane)

    patch.setattr(Writer, "add", early)


def commits_what_is_open(patch: Patch) -> None:
    patch.setattr(OffsetTracker, "watermark", lambda self: self.next_offset)


def notes_what_is_open(patch: Patch) -> None:
    def all_of_it(self: Window, watermark: int, count: int) -> bytes:
        return bytes([Fate.STORED]) * min(count, 5)

    patch.setattr(Window, "outcomes_from", all_of_it)


def passes_over_the_wrong_records(patch: Patch) -> None:
    go_on = Lane.go_on

    def one_off(self: Lane, offset: int, note: str) -> None:
        go_on(self, offset, note)
        if self._decided_before is not None:
            before = self._decided_before
            self._decided_before = before._replace(start=before.start - 1)

    patch.setattr(Lane, "go_on", one_off)


def keeps_its_lanes_over_a_rebalance(patch: Patch) -> None:
    """What was read before it lost the partition counts as read by the next assignment."""
    opened = Lanes.open

    def open_once(self: Lanes, partition: Partition) -> None:
        if self.of(partition) is None:
            opened(self, partition)

    patch.setattr(Lanes, "open", open_once)
    patch.setattr(Lanes, "close", lambda self, partitions: frozenset())


def leaks_what_it_counts(patch: Patch) -> None:
    """What is dropped with its partition is held for ever, as far as the worker knows."""
    drop = WriteQueue.drop

    def leak(self: WriteQueue, lane_ids: frozenset[int]) -> None:
        held_bytes = self.held_bytes
        drop(self, lane_ids)
        self.held_bytes = held_bytes

    patch.setattr(WriteQueue, "drop", leak)


def sends_giants_to_the_dead_letters(patch: Patch) -> None:
    decide = Decider.decide

    def refuse(self: Decider, trace: AssembledTrace, lane: Lane) -> None:
        if OVERLOAD_KEY in trace.trace.metadata:
            error = PoisonError("too large")
            self._writer._office.take_refused(trace, error, lane.lane_id)
        else:
            decide(self, trace, lane)

    patch.setattr(Decider, "decide", refuse)


def cuts_giants_that_do_not_say_so(patch: Patch) -> None:
    patch.setattr(assemble, "marked", lambda part, spans: part)


def cuts_spans_that_do_not_say_so(patch: Patch) -> None:
    cut = Giants._cut

    def without_mark(self: Giants, span: Span) -> Span:
        small = cut(self, span)
        attributes = {name: one for name, one in small.attributes.items() if name != CUT_ATTRIBUTE}
        return replace(small, attributes=attributes)

    patch.setattr(Giants, "_cut", without_mark)


def counts_numbers_that_come_late_as_missing(patch: Patch) -> None:
    patch.setattr(Account, "_fill", lambda self, sequence: False)


def counts_what_comes_again_anew(patch: Patch) -> None:
    take = Account.take

    def forgetful(self: Account, sequence: int | None, outcome: Fate, *, doubtful: bool) -> str:
        again = sequence is not None and sequence < self.following
        return take(self, None if again else sequence, outcome, doubtful=doubtful)

    patch.setattr(Account, "take", forgetful)


def believes_the_clocks_of_apps(patch: Patch) -> None:
    def record(self: PartitionClock, timestamp_ms: int, wall_ms: int) -> int:
        self.now_ms = timestamp_ms
        return self.now_ms

    patch.setattr(PartitionClock, "record", record)


def takes_a_lost_answer_for_a_refusal(patch: Patch) -> None:
    write = SinkPort.write

    async def hasty(self: SinkPort, batch: Sequence[AssembledTrace]) -> None:
        try:
            await write(self, batch)
        except TransientError as error:
            raise PoisonError(str(error)) from error

    patch.setattr(SinkPort, "write", hasty)


def loses_a_chunk(patch: Patch) -> None:
    add = ChunkJoiner.add

    def lossy(self: ChunkJoiner, chunk, positions, size: int, now_ms: int):
        if chunk.index == 1:
            return [Settled(positions)]
        return add(self, chunk, positions, size, now_ms)

    patch.setattr(ChunkJoiner, "add", lossy)


def forgets_late_spans(patch: Patch) -> None:
    expire = Assembler.expire

    def without_late(self: Assembler, now_ms: int) -> list[AssembledTrace]:
        return [trace for trace in expire(self, now_ms) if trace.reason != "late"]

    patch.setattr(Assembler, "expire", without_late)


def lets_the_older_part_win(patch: Patch) -> None:
    merge = assemble.merge_parts
    patch.setattr(assemble, "merge_parts", lambda old, new: merge(new, old))


def gives_up_half_of_what_is_refused(patch: Patch) -> None:
    refused = Bisection.refused

    def careless(self: Bisection) -> Queued | None:
        culprit = refused(self)
        if culprit is None:
            self._parts.pop()
        return culprit

    patch.setattr(Bisection, "refused", careless)


def takes_refused_for_stored(patch: Patch) -> None:
    patch.setattr(Writer, "_refuse", lambda self, item, error: self._stored([item]))


def does_not_wait_for_the_dead_letters(patch: Patch) -> None:
    async def send(self: DeadLetterOffice, cases: Sequence[object]) -> None:
        """Says nothing to anybody."""

    patch.setattr(DeadLetterOffice, "_send", send)


def changes_dead_letters(patch: Patch) -> None:
    letter = DeadLetterOffice._letter

    def shortened(self: DeadLetterOffice, case, one):
        from tests.worker.events import record

        value = (one.value or b"x")[:-1]
        short = record(value, one.offset, topic=one.topic, partition=one.partition)
        return letter(self, case, short)

    patch.setattr(DeadLetterOffice, "_letter", shortened)


def takes_in_without_end(patch: Patch) -> None:
    patch.setattr(FlowGate, "update", lambda self, held_bytes: False)


def samples_by_the_toss_of_a_coin(patch: Patch) -> None:
    tosses = iter(range(10**9))

    def decide(self: Sampler, trace: AssembledTrace, table: Table) -> Decision:
        coin = (Outcome.SKELETON, Outcome.FULL)[next(tosses) % 2]
        return Decision(outcome=coin, rule="coin", reason=DecisionReason.PROBABILITY)

    patch.setattr(Sampler, "decide", decide)


def moves_on_before_drops_are_written_down(patch: Patch) -> None:
    take = Drops.take

    def early(self: Drops, lane: Lane, entries: bytes, positions: Sequence[Position]) -> None:
        take(self, lane, entries, positions)
        lane.tracker.done(position.offset for position in positions)

    patch.setattr(Drops, "take", early)


def writes_down_only_the_first_of_its_drops(patch: Patch) -> None:
    records = Drops._records
    patch.setattr(Drops, "_records", lambda self, some: records(self, some[:1]))


def forgets_that_it_was_asked(patch: Patch) -> None:
    """What waits for an answer is lost with it."""
    answer = Recall._answer

    def lose(self: Recall, asked, stored) -> None:
        for trace, lane in asked.pieces:
            lane.tracker.done(position.offset for position in trace.positions)
        hand_on, self.on_answer = self.on_answer, lambda *_: None
        answer(self, asked, stored)
        self.on_answer = hand_on

    patch.setattr(Recall, "_answer", lose)


def drops_without_a_decision(patch: Patch) -> None:
    decided = Writer.add

    def add(self: Writer, trace: AssembledTrace, lane: Lane) -> None:
        if len(trace.spans) == 2:
            lane.tracker.done(position.offset for position in trace.positions)
        else:
            decided(self, trace, lane)

    patch.setattr(Writer, "add", add)


def keeps_no_ledger(patch: Patch) -> None:
    async def save(self: Bookkeeper, lanes: Sequence[Lane]) -> None:
        """Says nothing to anybody."""

    patch.setattr(Bookkeeper, "_save", save)


def counts_anew_what_was_counted(patch: Patch) -> None:
    """A worker that takes a partition over forgets how far each account is true."""
    take_over = Ledger._take_over

    def forgetful(self: Ledger, kept: Iterable[Kept]) -> Place | None:
        place = take_over(self, kept)
        for account in self.accounts.values():
            account.offset = account.following = 0
        return place

    patch.setattr(Ledger, "_take_over", forgetful)


def broker_takes_commits_of_anybody(patch: Patch) -> None:
    def commit(
        self: MemoryGroup,
        member_id: int,
        generation: int,
        offsets: Mapping[Partition, int],
        notes: Mapping[Partition, str],
    ) -> bool:
        self.broker.commit(offsets, notes)
        return True

    patch.setattr(MemoryGroup, "commit", commit)


def store_forgets(patch: Patch) -> None:
    stores = MemorySink._store
    calls = iter(range(10**9))

    def forgetful(self: MemorySink, trace: AssembledTrace) -> None:
        if next(calls) % 50 != 49:
            stores(self, trace)

    patch.setattr(MemorySink, "_store", forgetful)


def store_doubles(patch: Patch) -> None:
    """It knows an assessment by its trace only."""
    stores = MemorySink._store_by_request

    def doubling(self: MemorySink, trace: AssembledTrace) -> None:
        stores(self, trace)
        for each in trace.assessments:
            for stored in self.stored.values():
                stored.assessments[each.assessment_id] = each

    patch.setattr(MemorySink, "_store_by_request", doubling)


MUTATIONS: Iterable[Callable[[Patch], None]] = (
    commits_before_the_write,
    commits_what_is_open,
    notes_what_is_open,
    passes_over_the_wrong_records,
    keeps_its_lanes_over_a_rebalance,
    leaks_what_it_counts,
    sends_giants_to_the_dead_letters,
    cuts_giants_that_do_not_say_so,
    cuts_spans_that_do_not_say_so,
    counts_numbers_that_come_late_as_missing,
    counts_what_comes_again_anew,
    believes_the_clocks_of_apps,
    takes_a_lost_answer_for_a_refusal,
    loses_a_chunk,
    forgets_late_spans,
    lets_the_older_part_win,
    gives_up_half_of_what_is_refused,
    takes_refused_for_stored,
    does_not_wait_for_the_dead_letters,
    changes_dead_letters,
    takes_in_without_end,
    samples_by_the_toss_of_a_coin,
    drops_without_a_decision,
    keeps_no_ledger,
    counts_anew_what_was_counted,
    moves_on_before_drops_are_written_down,
    writes_down_only_the_first_of_its_drops,
    forgets_that_it_was_asked,
    broker_takes_commits_of_anybody,
    store_forgets,
    store_doubles,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.__name__)
def test_what_is_broken_is_found(mutation: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    for seed in range(1, SEEDS_MAX + 1):
        world = run_seed(seed)
        if world.problems:
            break
    else:
        pytest.fail(f"not found within {SEEDS_MAX} seeds")
    told = explain(world)
    assert world.problems[0] in told
    assert told.endswith(f"again: .venv/bin/python -m tests.simulation.run {seed}")
