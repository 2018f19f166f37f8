"""The ledger: every number is counted once, whatever is read again, and what is nowhere is missing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanferry_schemas import Report
from spanferry_worker.stages.accounts import (
    UNNUMBERED,
    Account,
    Books,
    Counts,
    Entry,
    Kept,
    Outcome,
    Page,
    Place,
    Told,
    read_entry,
    write_entry,
)
from spanferry_worker.stages.ledger import Ledger, LedgerPolicy, Window

BOOKS = Books("group", "traces", 0)
ONE, OTHER = b"1" * 8, b"2" * 8
DAY_MS = 86_400_000


class Topic:
    """A compacted topic, and the owners of a partition one after another."""

    def __init__(self, **policy: float) -> None:
        self.policy = LedgerPolicy(**policy)  # type: ignore[arg-type]
        self.entries: dict[bytes, bytes | None] = {}

    @property
    def kept(self) -> list[Kept]:
        found = map(read_entry, self.entries.values())
        return [one for one in found if one is not None]

    def owner(
        self, resumed_at: int | None = None, end: int | None = None, now_ms: int = 0
    ) -> Ledger:
        ledger = Ledger(self.policy, BOOKS)
        ledger.begin(self.kept, resumed_at=resumed_at, end=end, now_ms=now_ms)
        return ledger

    def save(self, entries: list[Entry]) -> None:
        self.entries |= {entry.key: entry.value for entry in entries}

    def commit(self, ledger: Ledger, watermark: int, now_ms: int = 0) -> None:
        ledger.fold(watermark, now_ms)
        self.save(ledger.changes(now_ms))


def stored(ledger: Ledger, *records: tuple[int, bytes, int], time_ms: int = 0) -> None:
    for offset, producer_id, sequence in records:
        ledger.read(offset, producer_id, sequence, time_ms)
        ledger.decided([offset], Outcome.STORED)


def test_nothing_counts_before_the_watermark_has_passed_it():
    ledger = Topic().owner()
    for offset in range(4):
        ledger.read(offset, ONE, offset, 0)
    ledger.decided([0, 1, 3], Outcome.STORED)
    ledger.fold(2, 0)
    assert ledger.accounts[ONE].counts.stored == 2
    ledger.decided([2], Outcome.DEAD_LETTERED)
    ledger.fold(4, 0)
    assert ledger.accounts[ONE] == Account(
        ONE, offset=4, following=4, counts=Counts(stored=3, dead_lettered=1)
    )


def test_who_comes_next_counts_nothing_twice_and_knows_what_went_before():
    topic = Topic()
    first = topic.owner()
    stored(first, *((n, ONE, n) for n in range(5)))
    topic.commit(first, 3)  # offsets 3 and 4 are stored, but not committed
    second = topic.owner(resumed_at=3)
    stored(second, *((n, ONE, n) for n in range(3, 8)))
    second.fold(8, 0)
    assert second.accounts[ONE].counts == Counts(stored=8)
    assert second.missing == 0


def test_a_ledger_ahead_of_the_commit_counts_nothing_twice():
    topic = Topic()
    first = topic.owner()
    stored(first, *((n, ONE, n) for n in range(5)))
    topic.commit(first, 5)  # and died before it could commit
    second = topic.owner(resumed_at=2)
    stored(second, *((n, ONE, n) for n in range(2, 6)))
    second.fold(6, 0)
    assert second.accounts[ONE].counts == Counts(stored=6)


def test_a_gap_is_missing_until_it_is_filled():
    ledger = Topic().owner()
    stored(ledger, (0, ONE, 0), (1, ONE, 4), (2, OTHER, 1))
    ledger.fold(3, 0)
    assert ledger.accounts[ONE].gaps == [(1, 3)]
    assert ledger.accounts[OTHER].gaps == [(0, 0)], "a new producer begins with 0"
    stored(ledger, (3, ONE, 2), (4, ONE, 2))
    ledger.fold(5, 0)
    assert ledger.accounts[ONE].gaps == [(1, 1), (3, 3)]
    assert ledger.accounts[ONE].counts == Counts(stored=3, repeated=1)


def test_what_was_committed_without_a_ledger_is_unaccounted_and_not_missing():
    topic = Topic()
    first = topic.owner()
    stored(first, (0, ONE, 0), (1, ONE, 1))
    topic.commit(first, 2)
    second = topic.owner(resumed_at=10)  # another worker has committed 2 to 10
    stored(second, (10, ONE, 7), (11, OTHER, 3), (12, ONE, 9))
    topic.commit(second, 13)
    third = topic.owner(resumed_at=13)
    stored(third, (13, b"3" * 8, 2), (14, OTHER, 5))
    third.fold(15, 0)
    accounts = third.accounts
    assert (accounts[ONE].counts.unaccounted, accounts[ONE].missing) == (5, 1)
    assert (accounts[OTHER].counts.unaccounted, accounts[OTHER].missing) == (3, 1)
    assert accounts[b"3" * 8].counts.unaccounted == 2, "it may have begun in the hole"


@pytest.mark.parametrize("read_before", [False, True], ids=["read later", "read before"])
def test_where_the_commit_is_not_known_the_first_record_says_where_it_goes_on(read_before):
    """Kafka did not answer what is committed: 0 to 6 were decided by somebody who kept no ledger."""
    topic = Topic()
    ledger = Ledger(topic.policy, BOOKS)
    if read_before:
        stored(ledger, (7, ONE, 6))
    ledger.begin([], resumed_at=None, end=None, now_ms=0)
    if not read_before:
        stored(ledger, (7, ONE, 6))
    stored(ledger, (8, ONE, 8))
    topic.commit(ledger, 9)
    assert ledger.accounts[ONE].counts == Counts(stored=2, unaccounted=6)
    assert ledger.accounts[ONE].gaps == [(7, 7)]
    heir = topic.owner()
    stored(heir, (20, ONE, 15))
    heir.fold(21, 0)
    assert (heir.accounts[ONE].counts.unaccounted, heir.missing) == (12, 1)


def test_what_retention_removes_before_anybody_read_it_is_missing():
    topic = Topic()
    first = topic.owner()
    stored(first, (0, ONE, 0))
    topic.commit(first, 1)
    second = topic.owner(resumed_at=1)
    stored(second, (500, ONE, 500))
    second.fold(501, 0)
    assert second.missing == 499


def test_a_partition_that_is_made_anew_begins_again():
    topic = Topic()
    first = topic.owner()
    stored(first, *((n, ONE, n) for n in range(5)))
    topic.commit(first, 5)
    second = topic.owner(resumed_at=None, end=2)
    stored(second, (0, ONE, 5), (1, ONE, 6))
    second.fold(2, 0)
    assert second.accounts[ONE].counts == Counts(stored=7)


def test_records_without_a_header_are_counted_together():
    ledger = Topic().owner()
    stored(ledger, (0, UNNUMBERED, -1), (1, UNNUMBERED, -1))
    ledger.fold(2, 0)
    assert ledger.accounts[UNNUMBERED].counts == Counts(stored=2)


def test_of_reports_the_newest_is_kept_and_they_have_no_number():
    topic = Topic()
    ledger = topic.owner()
    for offset, made_ns in enumerate((2, 1)):
        ledger.read(offset, UNNUMBERED, -1, 0)
        ledger.tell(Report(ONE, made_ns=made_ns))
        ledger.decided([offset], Outcome.REPORT)
    topic.commit(ledger, 2)
    assert topic.owner(resumed_at=2).reports == {ONE: Report(ONE, made_ns=2)}
    assert topic.owner(resumed_at=2).accounts == {}


def test_producers_that_are_gone_are_added_up_and_taken_back():
    topic = Topic(keep_s=DAY_MS / 1000)
    ledger = topic.owner()
    stored(ledger, (0, ONE, 0), (1, ONE, 2))
    ledger.tell(Report(ONE, made_ns=1))
    stored(ledger, (2, OTHER, 0), time_ms=DAY_MS)
    topic.commit(ledger, 3, now_ms=DAY_MS)
    after = topic.owner(resumed_at=3)
    assert after.accounts.keys() == {OTHER}
    assert after.reports == {}
    assert (after.folded.producers, after.folded.following, after.folded.missing) == (1, 3, 1)
    assert after.folded.counts == Counts(stored=2)
    stored(after, (3, ONE, 9), time_ms=DAY_MS)
    after.fold(4, DAY_MS)
    assert after.accounts[ONE].counts == Counts(stored=1, unaccounted=9), "it comes back"


def test_a_worker_that_dies_while_it_closes_an_account_leaves_it_in_one_place():
    topic = Topic(keep_s=DAY_MS / 1000)
    ledger = topic.owner()
    stored(ledger, (0, ONE, 0))
    topic.commit(ledger, 1)
    ledger.fold(1, DAY_MS)
    topic.save(ledger.changes(DAY_MS)[:1])
    after = topic.owner(resumed_at=1)
    assert (after.accounts, after.folded.producers) == ({}, 1)


def test_no_more_producers_than_the_limit():
    topic = Topic(producers_max=3)
    ledger = topic.owner()
    for n in range(10):
        stored(ledger, (n, bytes([n]) * 8, 0), time_ms=n)
    topic.commit(ledger, 10, now_ms=100_000)
    assert len(ledger.accounts) == 3
    assert ledger.folded.counts.stored == 7
    assert topic.owner(resumed_at=10).accounts.keys() == {bytes([n]) * 8 for n in (7, 8, 9)}


def test_after_a_failed_write_all_is_written_again():
    topic = Topic()
    ledger = topic.owner()
    stored(ledger, (0, ONE, 0))
    ledger.tell(Report(ONE, made_ns=1))
    ledger.fold(1, 0)
    ledger.changes(0)  # lost
    ledger.rewrite()
    topic.save(ledger.changes(0))
    assert topic.owner(resumed_at=1).accounts[ONE].counts.stored == 1
    assert topic.owner(resumed_at=1).reports.keys() == {ONE}


def test_a_ledger_that_could_be_read_only_later_goes_on_from_what_is_kept():
    topic = Topic()
    first = topic.owner()
    stored(first, *((n, ONE, n) for n in range(4)))
    topic.commit(first, 4)
    second = Ledger(topic.policy, BOOKS)
    second.begin([], resumed_at=4, end=None, now_ms=0)
    stored(second, (4, ONE, 4), (5, ONE, 5))
    second.fold(6, 0)
    second.go_on(topic.kept, 0)
    stored(second, (6, ONE, 6), (7, ONE, 8))
    topic.commit(second, 8)
    account = topic.owner(resumed_at=8).accounts[ONE]
    assert (account.counts, account.missing) == (Counts(stored=6, unaccounted=2), 1)


def test_a_ledger_whose_topic_is_made_later_keeps_what_it_has_counted():
    topic = Topic()
    ledger = topic.owner()
    stored(ledger, (0, ONE, 0))
    ledger.fold(1, 0)
    ledger.go_on(topic.kept, 0)
    topic.commit(ledger, 1)
    assert topic.owner(resumed_at=1).accounts[ONE].counts == Counts(stored=1)


def test_more_gaps_than_are_kept_are_missing_all_the_same():
    account = Account(ONE)
    for sequence in range(1, 401, 2):
        account.take(sequence, Outcome.STORED, doubtful=False)
    assert account.missing == 200
    assert len(account.gaps) <= 64


def test_entries_read_back_as_they_were_and_strangers_are_passed_over():
    for kept in (
        Page(*BOOKS, 1, [Account(ONE, 3, 4, [(1, 2)], Counts(stored=2), 5)]),
        Place(*BOOKS, 7, 3, 2, 1),
        Told(*BOOKS, Report(ONE, made_ns=1, dropped={"broken": 1})),
    ):
        assert read_entry(write_entry(kept).value) == kept
    for value in (None, b"", b"\x02\x90", b"\x01nonsense", b"\x01\x91\x63"):
        assert read_entry(value) is None


@pytest.mark.parametrize("gap", [1, 5])
def test_the_window_finds_records_whatever_lies_between_their_offsets(gap):
    window = Window()
    offsets = [10 + gap * n for n in range(20_000)]
    for offset in offsets:
        window.read(offset, ONE, offset, 0)
    window.decided([offsets[3], offsets[3] + 10**9, 0], Outcome.STORED)
    window.decided([offsets[3]], Outcome.LOST)
    taken = list(window.pop(offsets[15_000]))
    assert [one[4] for one in taken if one[0] == offsets[3]] == [Outcome.STORED]
    assert len(taken) == 15_000
    assert (window.first, len(window)) == (offsets[15_000], 5_000)
    window.decided([offsets[-1]], Outcome.SAMPLED)
    assert list(window.pop(2**62))[-1][4] == Outcome.SAMPLED


@given(seed=st.integers(0, 2**32), size=st.integers(1, 60))
@settings(deadline=None)
def test_every_number_is_in_one_count_whatever_crashes(seed, size):
    """Producers number records, some are lost, some come twice, owners die before and after they
    write and commit: in the end all but the lost ones are counted, once."""
    chance = random.Random(seed)
    log, produced, lost = _produce(chance, size)
    topic, committed = Topic(), 0
    while committed < len(log):
        ledger = topic.owner(resumed_at=committed, end=len(log))
        at = undecided = committed
        alive = True
        while alive and undecided < len(log):
            upto = min(len(log), at + chance.randint(0, 5))
            for offset in range(at, upto):
                ledger.read(offset, *log[offset], 0)
            at = upto
            for offset in chance.sample(range(undecided, at), k=chance.randint(0, at - undecided)):
                ledger.decided([offset], _outcome(log[offset]))
            undecided = next((o for o in range(undecided, at) if not _is_decided(ledger, o)), at)
            ledger.fold(undecided, 0)
            entries = ledger.changes(0)
            if chance.random() < 0.8:
                topic.save(entries)
                if chance.random() < 0.9:
                    committed = undecided
                else:
                    alive = False
            else:
                alive = False
    accounts = topic.owner(resumed_at=committed).accounts
    for producer_id, count in produced.items():
        account = accounts.get(producer_id, Account(producer_id))
        counts = account.counts
        tail = count - account.following  # lost at the end: only a report can tell
        assert account.missing + tail == len(lost[producer_id])
        assert counts.stored + counts.dead_lettered + counts.unaccounted == count - len(
            lost[producer_id]
        )
        assert counts.unaccounted == 0
        assert account.following == counts.stored + counts.dead_lettered + account.missing


def _is_decided(ledger: Ledger, offset: int) -> bool:
    window = ledger._window
    return window._outcomes[window._offsets.index(offset)] != Outcome.UNDECIDED


def _outcome(record: tuple[bytes, int]) -> Outcome:
    return Outcome.DEAD_LETTERED if record[1] % 5 == 4 else Outcome.STORED


def _produce(
    chance: random.Random, size: int
) -> tuple[list[tuple[bytes, int]], dict[bytes, int], dict[bytes, set[int]]]:
    """The partition, how many each producer has numbered, and which of these never came."""
    producers = [bytes([n]) * 8 for n in range(3)]
    produced = dict.fromkeys(producers, 0)
    lost: dict[bytes, set[int]] = {one: set() for one in producers}
    log: list[tuple[bytes, int]] = []
    for _ in range(size):
        one = chance.choice(producers)
        record = (one, produced[one])
        produced[one] += 1
        if chance.random() < 0.2:
            lost[one].add(record[1])
            continue
        log.append(record)
        if chance.random() < 0.2:
            log.append(record)
    chance.shuffle(log) if chance.random() < 0.2 else None
    return log, produced, lost
