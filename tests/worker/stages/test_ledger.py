"""The ledger: every number is counted once, whatever is read again, and what is nowhere is missing."""

import pytest

from spanferry_schemas import Report
from spanferry_worker.stages.accounts import (
    UNNUMBERED,
    Account,
    Counts,
    Outcome,
    Page,
    Place,
    Told,
    read_entry,
    write_entry,
)
from spanferry_worker.stages.ledger import Ledger, Window
from tests.worker.stages.ledgers import BOOKS, DAY_MS, ONE, OTHER, Topic


def stored(ledger: Ledger, *records: tuple[int, bytes, int], time_ms: int = 0) -> None:
    for offset, producer_id, sequence in records:
        ledger.read(offset, producer_id, sequence, time_ms)
        ledger.decided([offset], Outcome.STORED)


def missing(ledger: Ledger) -> int:
    return sum(account.missing for account in ledger.accounts.values())


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
    assert second.accounts[ONE].missing == 0


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


def test_a_number_that_comes_late_behind_a_hole_says_nothing_of_those_in_it():
    """ONE gives its numbers 2 to 4 before the hole ends; 2 waits on its disk, 3 lies in the hole."""
    topic = Topic()
    first = topic.owner()
    stored(first, (0, ONE, 0), (1, ONE, 1), time_ms=1_000)
    topic.commit(first, 2, now_ms=1_500)
    second = topic.owner(resumed_at=8, now_ms=3_000)
    stored(second, (8, ONE, 2), (9, ONE, 4), time_ms=2_000)
    second.fold(10, 3_500)
    assert (second.accounts[ONE].counts.unaccounted, missing(second)) == (1, 0)
    stored(second, (10, ONE, 5), time_ms=3_200)
    stored(second, (11, ONE, 7), time_ms=3_300)
    second.fold(12, 3_500)
    assert second.accounts[ONE].gaps == [(6, 6)], "given since the hole: nobody can have decided it"


def test_what_was_missing_before_a_hole_may_have_come_in_it():
    topic = Topic()
    first = topic.owner()
    stored(first, (0, ONE, 0), (1, ONE, 3))
    topic.commit(first, 2)
    assert missing(first) == 2
    assert missing(topic.owner(resumed_at=2)) == 2
    second = topic.owner(resumed_at=3)
    assert (second.accounts[ONE].counts.unaccounted, missing(second)) == (2, 0)
    assert second.counted == {"unaccounted": 2}
    topic.commit(second, 3)
    assert missing(topic.owner(resumed_at=3)) == 0, "it is kept"


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
    account = heir.accounts[ONE]
    assert (account.counts.unaccounted, account.missing) == (13, 0), "7 may be in the hole"


def test_what_retention_removes_before_anybody_read_it_is_missing():
    topic = Topic()
    first = topic.owner()
    stored(first, (0, ONE, 0))
    topic.commit(first, 1)
    second = topic.owner(resumed_at=1)
    stored(second, (500, ONE, 500))
    second.fold(501, 0)
    assert second.accounts[ONE].missing == 499


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


def test_what_an_owner_writes_after_the_next_has_written_changes_nothing():
    topic = Topic()
    first = topic.owner()
    stored(first, *((n, ONE, n) for n in range(4)))
    topic.commit(first, 2)
    first.fold(4, 0)
    late = first.changes(0)  # on its way when the partition goes
    second = topic.owner(resumed_at=2)
    stored(second, *((n, ONE, n) for n in range(2, 9)))
    topic.commit(second, 9)
    topic.save(late)
    third = topic.owner(resumed_at=9)
    assert third.hole is None
    stored(third, (9, ONE, 9))
    topic.commit(third, 10)
    assert third.accounts[ONE].counts == Counts(stored=10)
    assert len([one for one in topic.kept if isinstance(one, Place)]) == 1, (
        "what is outdated is taken back"
    )


def test_what_is_committed_without_a_ledger_is_told_by_who_finds_it():
    topic = Topic()
    topic.commit(topic.owner(), 5, now_ms=1)
    assert topic.owner(resumed_at=5).hole is None
    assert topic.owner(resumed_at=8).hole == (5, 8)
    assert Topic().owner(resumed_at=8).hole is None, "a ledger that begins has no hole"


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
