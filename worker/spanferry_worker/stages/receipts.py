"""Receipts: which dead letters were replayed, said in their own topic.

A receipt lies in the partition of the letters that it names, after them: retention, which removes from
the beginning, never leaves a letter whose receipt is gone, and who reads letters from anywhere on to
the end reads their receipts.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.dead_letter import HEADER_PREFIX

__all__ = ["Offsets", "Receipt", "Receipts", "is_receipt", "write_receipt"]

_HEADER: Final = f"{HEADER_PREFIX}replayed"
_MARK: Final = b"1"


class Offsets:
    """A set of offsets, kept as ranges: what lies together takes no more room than one."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Take in `first` to `last`, both included; without `last`, one offset."""
        if last is None:
            last = first
        if last < first:
            return
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def __contains__(self, offset: int) -> bool:
        index = bisect_right(self._firsts, offset) - 1
        return index >= 0 and offset <= self._lasts[index]

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges())

    def ranges(self) -> list[tuple[int, int]]:
        """First and last of each run, in order; runs do not touch."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def common(self, other: "Offsets") -> int:
        """How many offsets are in both."""
        found = 0
        mine, theirs = self.ranges(), other.ranges()
        i = j = 0
        while i < len(mine) and j < len(theirs):
            first = max(mine[i][0], theirs[j][0])
            last = min(mine[i][1], theirs[j][1])
            found += max(0, last - first + 1)
            if mine[i][1] < theirs[j][1]:
                i += 1
            else:
                j += 1
        return found


class Receipt(Struct, frozen=True):
    """These letters of the receipt's own partition were sent to `topic` and acknowledged."""

    topic: str
    offsets: list[tuple[int, int]]
    """Ranges, both ends included."""
    replayed_at_ms: int = 0
    version: str = ""


def write_receipt(receipt: Receipt) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of a receipt's record; it has no key."""
    return msgspec.json.encode(receipt), [(_HEADER, _MARK)]


def is_receipt(record: Record) -> bool:
    """Whether a record of the dead letters' topic is a receipt and no letter."""
    return any(name == _HEADER for name, _ in record.headers)


class Receipts:
    """Every receipt that was read."""

    def __init__(self) -> None:
        self._sent: dict[tuple[int, str], Offsets] = {}
        self._anywhere: dict[int, Offsets] = {}

    def read(self, record: Record) -> bool:
        """Take a record of the topic; whether it is a receipt. An unreadable one says nothing."""
        if not is_receipt(record):
            return False
        try:
            receipt = msgspec.json.decode(record.value or b"", type=Receipt)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return True
        self.note(record.partition, receipt)
        return True

    def note(self, partition: int, receipt: Receipt) -> None:
        """Take a receipt for letters of a partition."""
        sent = self._sent.setdefault((partition, receipt.topic), Offsets())
        anywhere = self._anywhere.setdefault(partition, Offsets())
        for first, last in receipt.offsets:
            sent.add(first, last)
            anywhere.add(first, last)

    def offsets(self, partition: int, topic: str | None = None) -> Offsets:
        """What was replayed of a partition, to `topic` or, without one, to any."""
        if topic is None:
            return self._anywhere.get(partition, Offsets())
        return self._sent.get((partition, topic), Offsets())

    def topics(self, partition: int, offset: int) -> list[str]:
        """Where a letter was replayed to, sorted."""
        sent = self._sent.items()
        return sorted(topic for (own, topic), at in sent if own == partition and offset in at)
