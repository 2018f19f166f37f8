"""ledger: every number of every producer is accounted for, up to what is committed."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from spanferry_schemas import Report
from spanferry_worker.stages.accounts import (
    UNNUMBERED,
    Account,
    Books,
    Entry,
    Folded,
    Kept,
    Outcome,
    Page,
    Place,
    Told,
    key_of,
    write_entry,
)

__all__ = ["Ledger", "LedgerPolicy", "Window"]

_PAGES: Final = 4
"""Entries that a partition's accounts are spread over, so that not all are written anew each time."""
_REWRITE_MS: Final = 600_000
"""Every entry is written this often: that heals what a worker wrote which had lost the partition."""
_LOOK_MS: Final = 60_000
_IDLE_ENTRIES: Final = 8_192


class LedgerPolicy(Struct, frozen=True, kw_only=True):
    """How many producers are told apart, and how long."""

    keep_s: float = 7 * 24 * 3600.0
    """A producer not heard of for this long is added to those that are gone."""
    producers_max: int = 10_000
    """Told apart in one partition; of more, those not heard of for longest are added to the gone."""

    def __post_init__(self) -> None:
        if self.keep_s <= 0 or self.producers_max < 1:
            raise ValueError("keep_s must be above 0, producers_max at least 1")


class Window:
    """The records between the watermark and what was read last: 33 bytes for each."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self._sequences = array("q")
        self._times = array("q")
        self._producers: list[bytes] = []
        self._outcomes = bytearray()
        self._start = 0
        self._ids: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._offsets) - self._start

    @property
    def first(self) -> int | None:
        """The first offset in it."""
        return self._offsets[self._start] if len(self) else None

    def read(self, offset: int, producer_id: bytes, sequence: int, time_ms: int) -> None:
        """A record was read; offsets rise. `sequence` -1: it has none."""
        self._offsets.append(offset)
        self._sequences.append(sequence)
        self._times.append(time_ms)
        self._producers.append(self._ids.setdefault(producer_id, producer_id))
        self._outcomes.append(Outcome.UNDECIDED)

    def decided(self, offsets: Iterable[int], outcome: Outcome) -> None:
        """What became of records. The first word stands; what is not in the window is passed over."""
        own, start, outcomes = self._offsets, self._start, self._outcomes
        end = len(own)
        if start == end:
            return
        first = own[start]
        for offset in offsets:
            at = start + offset - first
            if not (start <= at < end and own[at] == offset):
                at = bisect_left(own, offset, start)
                if at == end or own[at] != offset:
                    continue
            if outcomes[at] == Outcome.UNDECIDED:
                outcomes[at] = outcome

    def waiting_from(self, offset: int) -> int:
        """Records from there on that are to be counted: reports are not."""
        at = bisect_left(self._offsets, offset, self._start)
        return len(self._offsets) - at - self._outcomes.count(Outcome.REPORT, at)

    def outcomes_from(self, watermark: int, count: int) -> bytes:
        """What became of at most so many records from this offset on, a byte for each offset."""
        own, at = self._offsets, bisect_left(self._offsets, watermark, self._start)
        end = bisect_left(own, watermark + count, at)
        if at == end:
            return b""
        if own[end - 1] - watermark == end - 1 - at:
            return bytes(self._outcomes[at:end])
        found = bytearray(own[end - 1] - watermark + 1)
        for place in range(at, end):
            found[own[place] - watermark] = self._outcomes[place]
        return bytes(found)

    def pop(self, watermark: int) -> Iterable[tuple[int, bytes, int, int, Outcome]]:
        """Take out what lies below: offset, producer, number, time, outcome of each, in order."""
        end = bisect_left(self._offsets, watermark, self._start)
        for at in range(self._start, end):
            yield (
                self._offsets[at],
                self._producers[at],
                self._sequences[at],
                self._times[at],
                Outcome(self._outcomes[at]),
            )
        self._start = end
        if end > _IDLE_ENTRIES and end * 2 > len(self._offsets):
            for column in (self._offsets, self._sequences, self._times):
                del column[:end]
            del self._producers[:end], self._outcomes[:end]
            self._start = 0
            self._ids = {one: one for one in self._producers}


class Ledger:
    """The ledger of one partition during one assignment.

    Records are read and decided at once, and counted when the watermark has passed them: what is
    written is true for an offset, and who begins there counts nothing twice. `begin` comes once the
    kept entries are read, before the first `fold`.
    """

    def __init__(self, policy: LedgerPolicy, books: Books) -> None:
        self._keep_ms = int(policy.keep_s * 1000)
        self._producers_max = policy.producers_max
        self._books = books
        self.window = Window()
        """What was read and is not counted yet."""
        self.place = Place(*books)
        """How far the accounts are true."""
        self.folded = Folded(*books)
        """The producers that are gone."""
        self._gone: set[bytes] = set()
        self.accounts: dict[bytes, Account] = {}
        self.reports: dict[bytes, Report] = {}
        self._pages: set[int] = set()
        self._told: set[bytes] = set()
        self._taken_back: list[Entry] = []
        self._outdated: list[bytes] = []
        """Keys of what the owners before this one wrote."""
        self._begins_after_ms = 0
        self.hole: tuple[int, int] | None = None
        """Offsets, the last not included, that were committed and that the owners before have not counted."""
        self._gone_changed = False
        self._rewritten_ms = self._looked_ms = 0
        self.is_begun = False
        self._begun_ms: int | None = None
        """Set while the first record is to tell where the partition goes on."""
        self.counted: Counter[str] = Counter()
        """What `fold` has counted since the caller cleared it."""

    # What happens.

    def read(self, offset: int, producer_id: bytes, sequence: int, time_ms: int) -> None:
        """A record was read. Without a readable header: UNNUMBERED and -1."""
        if self._begun_ms is not None:
            self._go_on_at(offset, self._begun_ms)
        self.window.read(offset, producer_id, sequence, time_ms)

    def decided(self, offsets: Iterable[int], outcome: Outcome) -> None:
        """What became of records, by their offsets. The first word on a record stands."""
        self.window.decided(offsets, outcome)

    def tell(self, report: Report) -> None:
        """A producer's report has come."""
        known = self.reports.get(report.producer_id)
        if known is None or known.made_ns < report.made_ns:
            self.reports[report.producer_id] = report
            self._told.add(report.producer_id)

    # What is kept.

    def begin(
        self, kept: Iterable[Kept], *, resumed_at: int | None, end: int | None, now_ms: int
    ) -> None:
        """Take over what is kept of this partition; entries of others are passed over.

        `resumed_at`: the committed offset that the partition goes on at, where it is known: else that
        is where the first record lies. `end`: one past its last record, where that is known.
        """
        self.is_begun = True
        place = self._take_over(kept)
        if place is not None and end is not None and place.offset > end:
            # The partition was made anew: offsets began again, numbers did not.
            for account in self.accounts.values():
                account.offset = 0
            place = Place(*self._books)
        self.place = place or Place(*self._books)
        self.place.begun_ms = max(now_ms, self._begins_after_ms + 1)
        self._begun_ms = None
        goes_on_at = self.window.first if resumed_at is None else resumed_at
        if goes_on_at is None:
            self._begun_ms = now_ms
        else:
            self._go_on_at(goes_on_at, now_ms)
        self.rewrite()

    def go_on(self, kept: Iterable[Kept], now_ms: int) -> None:
        """The entries could be read only now that some was folded: what is kept goes before that.

        Where nothing is kept of this partition, what was folded stands.
        """
        some = [one for one in kept if (one.group, one.topic, one.partition) == self._books]
        if any(isinstance(one, Place) for one in some):
            self.begin(some, resumed_at=self.place.offset, end=None, now_ms=now_ms)
        else:
            self.rewrite()

    def _take_over(self, kept: Iterable[Kept]) -> Place | None:
        """What the last owner wrote stands, whatever of those before it came later.

        Where a topic that has grown shows two states of one thing, the one further on stands.
        """
        some = [one for one in kept if (one.group, one.topic, one.partition) == self._books]
        places = [one for one in some if isinstance(one, Place)]
        place = max(places, key=lambda one: (one.begun_ms, one.offset), default=None)
        owner = 0 if place is None else place.begun_ms
        self.accounts = {}
        self._outdated = []
        self._begins_after_ms = owner
        for one in some:
            if isinstance(one, Told):
                self.tell(one.report)
                continue
            self._outdated.append(key_of(one))
            self._begins_after_ms = max(self._begins_after_ms, one.begun_ms)
            if one.begun_ms != owner:
                continue
            if isinstance(one, Page):
                _take_page(self.accounts, one)
            elif isinstance(one, Folded):
                self.folded = max(self.folded, one, key=lambda folded: folded.producers)
        self._gone = set(self.folded.ids)
        for producer_id in self._gone & self.accounts.keys():
            # Added to the gone, and not taken back before the worker died.
            del self.accounts[producer_id]
        return place

    def _go_on_at(self, offset: int, now_ms: int) -> None:
        """What lies between the ledger and this was decided, or removed, while nobody kept it."""
        self._begun_ms = None
        if offset > self.place.offset:
            if self.place.written_ms:
                self.hole = (self.place.offset, offset)
            self.place.hole_offset, self.place.hole_ms = offset, now_ms
            self.place.offset = offset
            for account in self.accounts.values():
                self.counted["unaccounted"] += account.doubt()
            self._pages = set(range(_PAGES))

    def fold(self, watermark: int, now_ms: int) -> None:
        """Count what lies below the watermark, which is about to be committed."""
        for offset, producer_id, sequence, time_ms, outcome in self.window.pop(watermark):
            if outcome not in {Outcome.REPORT, Outcome.UNDECIDED}:
                self._count(offset, producer_id, sequence, time_ms, outcome)
        self.place.offset = max(self.place.offset, watermark)
        if now_ms - self._looked_ms >= _LOOK_MS:
            self._looked_ms = now_ms
            self._fold_away(now_ms)
        if now_ms - self._rewritten_ms >= _REWRITE_MS:
            self.rewrite()
            self._rewritten_ms = now_ms

    @property
    def is_behind(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._pages or self._told or self._taken_back or self._gone_changed)

    def _count(
        self, offset: int, producer_id: bytes, sequence: int, time_ms: int, outcome: Outcome
    ) -> None:
        account = self.accounts.get(producer_id)
        if account is None:
            account = self.accounts[producer_id] = Account(producer_id)
            hole_ms = self.place.hole_ms
            doubtful = producer_id in self._gone or (
                self.place.hole_offset > 0 and time_ms - hole_ms < self._keep_ms
            )
        elif offset < account.offset:
            return  # counted before, by who owned the partition then
        else:
            doubtful = self.place.doubts(account)
        skipped = account.counts.unaccounted
        name = account.take(None if sequence < 0 else sequence, outcome, doubtful=doubtful)
        account.offset = offset + 1
        account.seen_ms = max(account.seen_ms, time_ms)
        self.counted[name] += 1
        self.counted["unaccounted"] += account.counts.unaccounted - skipped
        self._pages.add(_page_of(producer_id))

    def _fold_away(self, now_ms: int) -> None:
        """Add up producers that are gone, or too many, and forget reports that are as old."""
        told = [account for account in self.accounts.values() if account.producer_id != UNNUMBERED]
        told.sort(key=lambda account: account.seen_ms)
        excess = len(told) - self._producers_max
        for index, account in enumerate(told):
            if index >= excess and now_ms - account.seen_ms < self._keep_ms:
                break
            self._pages.add(_page_of(account.producer_id))
            del self.accounts[account.producer_id]
            self.folded.take(account)
            self._gone = set(self.folded.ids)
            self._gone_changed = True
        for producer_id, report in list(self.reports.items()):
            if now_ms - report.made_ns // 1_000_000 >= self._keep_ms:
                del self.reports[producer_id]
                self._told.discard(producer_id)
                self._taken_back.append(Entry(key_of(Told(*self._books, report)), None))

    def rewrite(self) -> None:
        """Everything is to be written again: what was written last may not have arrived."""
        self._pages = set(range(_PAGES))
        self._told = set(self.reports)
        self._gone_changed = self.folded.producers > 0
        self._taken_back += [Entry(key, None) for key in self._outdated]

    def changes(self, now_ms: int) -> list[Entry]:
        """What is to be written now, and counts as written. After a failure call `rewrite`.

        The gone come first: a worker that dies in between leaves a producer in both, which `begin` sees.
        """
        self.place.written_ms = now_ms
        self.folded.begun_ms = self.place.begun_ms
        kept: list[Kept] = [self.folded] if self._gone_changed else []
        for number in sorted(self._pages):
            some = [one for one in self.accounts.values() if _page_of(one.producer_id) == number]
            kept.append(Page(*self._books, number, some, self.place.begun_ms))
        kept += [Told(*self._books, self.reports[one]) for one in sorted(self._told)]
        entries = [*map(write_entry, kept), write_entry(self.place), *self._taken_back]
        self._pages, self._told, self._taken_back = set(), set(), []
        self._gone_changed = False
        return entries


def _take_page(accounts: dict[bytes, Account], page: Page) -> None:
    for account in page.accounts:
        known = accounts.get(account.producer_id)
        if known is None or known.offset <= account.offset:
            accounts[account.producer_id] = account


def _page_of(producer_id: bytes) -> int:
    return producer_id[0] % _PAGES if producer_id else 0
