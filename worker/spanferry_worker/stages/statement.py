"""A statement of the ledger: what became of all that was produced, producer by producer."""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from spanferry_schemas import Report, decode, read_meta
from spanferry_worker.stages.accounts import (
    UNNUMBERED,
    Account,
    Books,
    Counts,
    Folded,
    Kept,
    Outcome,
)
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.ledger import Ledger, LedgerPolicy

__all__ = [
    "ACCOUNTED",
    "COUNTED",
    "PartitionStatement",
    "Row",
    "Statement",
    "Summary",
    "state",
    "sum_up",
]

COUNTED: Final = (
    "produced",
    "stored",
    "sampled",
    "dead_lettered",
    "in_flight",
    "dropped",
    "missing",
    "settled",
    "unaccounted",
    "repeated",
)
"""What a Row counts."""

ACCOUNTED: Final = ("stored", "sampled", "dead_lettered", "in_flight", "settled", "unaccounted")
"""What becomes of records that are there."""


class Row(Struct, kw_only=True):
    """One producer in all partitions. `produced` is the sum of all that follows it but `repeated`.

    `dropped` are parcels, which never became records: each counts as one.
    """

    producer_id: bytes = UNNUMBERED
    produced: int = 0
    stored: int = 0
    sampled: int = 0
    dead_lettered: int = 0
    in_flight: int = 0
    dropped: int = 0
    missing: int = 0
    settled: int = 0
    unaccounted: int = 0
    repeated: int = 0
    places: dict[int, list[tuple[int, int]]] = {}
    """By partition the numbers that are missing, first and last of each run."""
    report: Report | None = None
    seen_ms: int = 0

    @property
    def adds_up(self) -> bool:
        """produced == stored + sampled + dead-lettered + in flight + dropped + what is explained."""
        explained = self.settled + self.unaccounted
        known = self.stored + self.sampled + self.dead_lettered + self.in_flight + self.dropped
        return not self.missing and self.produced == known + explained

    def take(self, counts: Counts, produced: int) -> None:
        """Add an account's counts."""
        self.produced += produced
        self.stored += counts.stored
        self.sampled += counts.sampled
        self.dead_lettered += counts.dead_lettered
        self.in_flight += counts.in_flight
        self.settled += counts.settled
        self.unaccounted += counts.unaccounted
        self.repeated += counts.repeated

    def add(self, other: "Row") -> None:
        """For totals."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class PartitionStatement:
    """One partition: what is kept of it, and what lies in Kafka behind that.

    `begin` is where reading has to start. Feed `read` with every record from there to the end, in order.
    """

    def __init__(
        self, books: Books, kept: Iterable[Kept], *, begin: int, committed: int | None, now_ms: int
    ) -> None:
        # Nobody is forgotten while one reads.
        self._ledger = Ledger(LedgerPolicy(keep_s=1e12, producers_max=2**62), books)
        some = [one for one in kept if (one.group, one.topic, one.partition) == books]
        self.kept = bool(some)
        start = committed if committed is not None else (0 if self.kept else begin)
        self._ledger.begin(some, resumed_at=start, end=None, now_ms=now_ms)
        self.removed = max(0, begin - self._ledger.place.offset) if some else 0
        """Records that Kafka has removed before any worker had read them, whoever made them."""
        self.begin = max(begin, self._ledger.place.offset)
        self.partition = books.partition

    def read(self, records: Iterable[Record], *, reports_below: int) -> None:
        """Records that no worker has decided, as far as is kept. Later reports say too much."""
        ledger = self._ledger
        for record in records:
            offset, meta = record.offset, read_meta(record.headers)
            if meta is not None:
                ledger.read(offset, meta.producer_id, meta.sequence, record.timestamp)
                ledger.decided([offset], Outcome.IN_FLIGHT)
                continue
            event = decode(record.value)
            ledger.read(offset, UNNUMBERED, -1, record.timestamp)
            if not isinstance(event, Report):
                ledger.decided([offset], Outcome.IN_FLIGHT)
            elif offset < reports_below:
                ledger.tell(event)
        ledger.fold(2**62, 0)

    @property
    def accounts(self) -> Mapping[bytes, Account]:
        """As of the end of what was read."""
        return self._ledger.accounts

    @property
    def reports(self) -> Mapping[bytes, Report]:
        """The newest that came in this partition."""
        return self._ledger.reports

    @property
    def folded(self) -> Folded:
        """Those that are gone."""
        return self._ledger.folded

    def vouches_for(self, producer_id: bytes) -> bool:
        """Whether a number that is not counted here is missing for sure."""
        place, folded = self._ledger.place, self._ledger.folded
        account = self.accounts.get(producer_id)
        if account is None:
            forgotten = producer_id in folded.ids or folded.producers > len(folded.ids)
            return self.kept and not place.hole_offset and not forgotten
        return not place.doubts(account)


class Statement(Struct, frozen=True):
    """Every producer that is told apart, those that are gone together, and all of them."""

    rows: list[Row]
    gone: Row
    gone_producers: int
    totals: Row
    not_kept: list[int]
    """Partitions of which no ledger is kept."""
    removed: dict[int, int]
    """By partition, the records that Kafka has removed before any worker had read them."""

    @property
    def adds_up(self) -> bool:
        """Whether nothing is missing anywhere."""
        return not self.wrong and not self.removed

    @property
    def wrong(self) -> list[Row]:
        """The producers that do not add up."""
        return [row for row in self.rows if not row.adds_up]


def state(partitions: Iterable[PartitionStatement]) -> Statement:
    """Put all partitions together, once all records are read."""
    parts = list(partitions)
    rows: dict[bytes, Row] = {}
    for part in parts:
        for report in part.reports.values():
            row = rows.setdefault(report.producer_id, Row(producer_id=report.producer_id))
            if row.report is None or row.report.made_ns < report.made_ns:
                row.report = report
    gone, gone_producers = Row(), 0
    for part in parts:
        for producer_id, account in part.accounts.items():
            row = rows.setdefault(producer_id, Row(producer_id=producer_id))
            _take(row, part.partition, account)
        gone.take(part.folded.counts, part.folded.following)
        gone.missing += part.folded.missing
        gone_producers += part.folded.producers
    for row in rows.values():
        if row.report is not None:
            _compare(row, row.report, parts)
    totals = Row()
    for row in (*rows.values(), gone):
        totals.add(row)
    ranked = sorted(rows.values(), key=lambda row: (row.adds_up, -row.produced, row.producer_id))
    not_kept = [part.partition for part in parts if not part.kept]
    removed = {part.partition: part.removed for part in parts if part.removed}
    return Statement(ranked, gone, gone_producers, totals, not_kept, removed)


def _take(row: Row, partition: int, account: Account) -> None:
    row.take(account.counts, account.following)
    row.missing += account.missing
    row.seen_ms = max(row.seen_ms, account.seen_ms)
    if account.gaps:
        row.places = {**row.places, partition: list(account.gaps)}


def _compare(row: Row, report: Report, parts: Iterable[PartitionStatement]) -> None:
    """What the producer says that Kafka has acknowledged, and nobody has seen."""
    row.dropped = sum(report.dropped.values())
    row.produced += row.dropped
    told = dict(report.acknowledged)
    for part in parts:
        account = part.accounts.get(row.producer_id)
        following = 0 if account is None else account.following
        unseen = told.get(part.partition, 0) - following
        if unseen <= 0 or (account is None and row.producer_id in part.folded.ids):
            continue
        row.produced += unseen
        if part.vouches_for(row.producer_id):
            row.missing += unseen
            last = (following, following + unseen - 1)
            row.places = {**row.places, part.partition: [*row.places.get(part.partition, []), last]}
        else:
            row.unaccounted += unseen


class Summary(Struct, frozen=True):
    """What a worker can say of its partitions at once, without reading anything."""

    totals: Row
    """`missing` is of the producers told apart; what apps say of numbers that nobody has read is left to
    `state`, which knows every partition."""
    producers: int
    """Told apart, by partition."""
    wrong: int
    """Producers that do not add up, each once."""
    written_off: int
    """Missing of producers whose accounts are closed."""


def sum_up(ledgers: Iterable[tuple[Ledger, int]]) -> Summary:
    """Of every partition its ledger, and how many records in it are not read yet."""
    totals, reports, wrong = Row(), dict[bytes, Report](), set[bytes]()
    producers = written_off = 0
    for ledger, unread in ledgers:
        producers += len(ledger.accounts)
        for producer_id, account in ledger.accounts.items():
            totals.take(account.counts, account.following)
            if missing := account.missing:
                totals.missing += missing
                wrong.add(producer_id)
        totals.take(ledger.folded.counts, ledger.folded.following)
        written_off += ledger.folded.missing
        waiting = ledger.window.waiting_from(ledger.place.offset) + unread
        totals.in_flight += waiting
        totals.produced += waiting
        for producer_id, report in ledger.reports.items():
            known = reports.get(producer_id)
            if known is None or known.made_ns < report.made_ns:
                reports[producer_id] = report
    totals.dropped = sum(sum(report.dropped.values()) for report in reports.values())
    totals.produced += totals.dropped
    return Summary(totals, producers, len(wrong), written_off)
