"""The ledger's accounts: what became of every number of every producer, as they are kept in Kafka.

Entries are append-only like the wire: fields are only ever added at the end, with a default.
"""

from bisect import bisect_right
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from spanferry_schemas import Report

__all__ = [
    "UNNUMBERED",
    "Account",
    "Books",
    "Counts",
    "Entry",
    "Folded",
    "Outcome",
    "Page",
    "Place",
    "Told",
    "key_of",
    "read_entry",
    "write_entry",
]

UNNUMBERED: Final = b""
"""The producer of records without a readable header."""
_VERSION: Final = b"\x01"
_IDS_MAX: Final = 4_096
"""Of producers that are gone so many are known by their ids."""
_GAPS_MAX: Final = 64
"""Ranges of missing numbers kept for one producer; of more the oldest are lost for good."""


class Outcome(IntEnum):
    """What became of a record."""

    UNDECIDED = 0
    STORED = 1
    SAMPLED = 2
    """Dropped by policy."""
    DEAD_LETTERED = 3
    SETTLED = 4
    """A piece that came again of a value which was decided before."""
    LOST = 5
    """For the dead letters, but Kafka had removed it."""
    REPORT = 6
    """It has no number."""
    IN_FLIGHT = 7
    """In Kafka, not decided yet."""


class Counts(Struct, array_like=True, gc=False):
    """Records by what became of them. `repeated` came again and are counted nowhere else."""

    stored: int = 0
    sampled: int = 0
    dead_lettered: int = 0
    settled: int = 0
    lost: int = 0
    repeated: int = 0
    unaccounted: int = 0
    """Decided while no ledger was kept, or before it was."""
    in_flight: int = 0
    """Never kept: whoever reads a ledger counts them."""

    def add(self, other: "Counts") -> None:
        """Take another's on top."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_FIELDS: Final = {
    Outcome.STORED: "stored",
    Outcome.SAMPLED: "sampled",
    Outcome.DEAD_LETTERED: "dead_lettered",
    Outcome.SETTLED: "settled",
    Outcome.LOST: "lost",
    Outcome.IN_FLIGHT: "in_flight",
}


class Account(Struct, array_like=True):
    """One producer in one partition. True for all of its records below `offset`.

    `following` == stored + sampled + dead-lettered + settled + unaccounted + in flight + missing.
    """

    producer_id: bytes
    offset: int = 0
    """One past the last record counted; what lies below was counted."""
    following: int = 0
    """The number that comes next."""
    gaps: list[tuple[int, int]] = []
    """Numbers that did not come, first and last of each run. A late one may still fill its place."""
    counts: Counts = msgspec.field(default_factory=Counts)
    seen_ms: int = 0
    """When the newest record was produced."""

    @property
    def missing(self) -> int:
        """Numbers that are nowhere."""
        return self.counts.lost + sum(last - first + 1 for first, last in self.gaps)

    def take(self, sequence: int | None, outcome: Outcome, *, doubtful: bool) -> str:
        """Count one record; the name of the count. `sequence` None: it has none.

        `doubtful`: numbers skipped before it may have been decided while nobody kept the ledger.
        """
        if sequence is None:
            sequence = self.following
        if sequence > self.following:
            self._skip(sequence, doubtful=doubtful)
        if sequence >= self.following:
            self.following = sequence + 1
        elif not self._fill(sequence):
            self.counts.repeated += 1
            return "repeated"
        name = _FIELDS[outcome]
        setattr(self.counts, name, getattr(self.counts, name) + 1)
        return name

    def _skip(self, sequence: int, *, doubtful: bool) -> None:
        if doubtful:
            self.counts.unaccounted += sequence - self.following
            return
        self.gaps.append((self.following, sequence - 1))
        if len(self.gaps) > _GAPS_MAX:
            first, last = self.gaps.pop(0)
            self.counts.lost += last - first + 1

    def doubt(self) -> int:
        """What is missing may have come where nobody has counted: it is unaccounted. How many that are."""
        count = sum(last - first + 1 for first, last in self.gaps)
        self.counts.unaccounted += count
        self.gaps = []
        return count

    def _fill(self, sequence: int) -> bool:
        """A number that was missing has come; False where it was not."""
        at = bisect_right(self.gaps, sequence, key=lambda gap: gap[0]) - 1
        if at < 0 or self.gaps[at][1] < sequence:
            return False
        first, last = self.gaps[at]
        rest = [(first, sequence - 1), (sequence + 1, last)]
        self.gaps[at : at + 1] = [gap for gap in rest if gap[0] <= gap[1]]
        return True


class Books(NamedTuple):
    """Whose ledger of which partition."""

    group: str
    topic: str
    partition: int


class Page(Struct, array_like=True, tag=1):
    """Some producers' accounts of one partition: those whose id gives this number."""

    group: str
    topic: str
    partition: int
    number: int
    accounts: list[Account]
    begun_ms: int = 0
    """Which owner wrote it: the one whose assignment began then. An owner begins after all before it."""


class Place(Struct, array_like=True, tag=2):
    """How far the accounts of a partition are true, and where the ledger has a hole."""

    group: str
    topic: str
    partition: int
    offset: int = 0
    """Every record below it is counted, or lies in a hole."""
    hole_offset: int = 0
    """Where the last hole ended; 0: there is none. What was committed in it is counted by nobody."""
    hole_ms: int = 0
    """When that was found."""
    written_ms: int = 0
    begun_ms: int = 0
    """Which owner wrote it, after all of its pages. What another one wrote has another key: it may come
    late, from a worker that has lost the partition, and changes nothing."""

    def doubts(self, account: Account) -> bool:
        """Whether numbers that follow in an account may have been decided in the hole.

        A number that comes late is no sign that those after it have not come: they are missing only once
        the producer has given one since the hole.
        """
        return account.offset < self.hole_offset or account.seen_ms < self.hole_ms


class Folded(Struct, array_like=True, tag=3):
    """Producers that have been gone for long, added up, and the ids of the last of them."""

    group: str
    topic: str
    partition: int
    producers: int = 0
    following: int = 0
    missing: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    ids: list[bytes] = []
    begun_ms: int = 0
    """Which owner wrote it."""

    def take(self, account: Account) -> None:
        """Add one that is gone."""
        self.producers += 1
        self.following += account.following
        self.missing += account.missing
        self.counts.add(account.counts)
        self.ids = [*self.ids[1 - _IDS_MAX :], account.producer_id]


class Told(Struct, array_like=True, tag=4):
    """The newest report of a producer, and the partition that it came in."""

    group: str
    topic: str
    partition: int
    report: Report


Kept = Page | Place | Folded | Told

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Kept]] = msgspec.msgpack.Decoder(Kept)


class Entry(NamedTuple):
    """A record of the ledger's topic. Without a value it takes back what was there before."""

    key: bytes
    value: bytes | None


def key_of(kept: Kept) -> bytes:
    """What the newer of two entries has in common with the older."""
    if isinstance(kept, Told):
        # A producer's reports may come in another partition once the topic has grown.
        return _encoder.encode((kept.group, kept.topic, 4, None, kept.report.producer_id))
    number = kept.number if isinstance(kept, Page) else None
    tag = kept.__struct_config__.tag
    return _encoder.encode((kept.group, kept.topic, tag, kept.partition, number, kept.begun_ms))


def write_entry(kept: Kept) -> Entry:
    """As it is written."""
    return Entry(key_of(kept), _VERSION + _encoder.encode(kept))


def read_entry(value: bytes | None) -> Kept | None:
    """What `write_entry` wrote; None for what is taken back, or what another version wrote."""
    if not value or not value.startswith(_VERSION):
        return None
    try:
        return _decoder.decode(memoryview(value)[1:])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
