"""commit: how far a partition may be committed. Below the watermark everything is durable or decided."""

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["OffsetTracker"]


class OffsetTracker:
    """The contiguous low watermark of one partition; a new one for every assignment.

    Every record is begun when it is read and done when nothing more is to be done for it: its trace
    is stored, its sampling has dropped it, or the dead letters have acknowledged it.
    All operations are O(1) amortised.
    """

    __slots__ = ("_next", "_open")

    def __init__(self) -> None:
        self._open: OrderedDict[int, int] = OrderedDict()
        self._next: int | None = None

    def begin(self, offset: int, timestamp_ms: int = 0) -> bool:
        """A record was read, which was produced at `timestamp_ms` (since 1970).

        Offsets rise, with gaps where Kafka has removed or hidden records. False, and nothing is
        changed, where the offset was passed before.
        """
        if self._next is not None and offset < self._next:
            return False
        self._open[offset] = timestamp_ms
        self._next = offset + 1
        return True

    def done(self, offsets: Iterable[int]) -> None:
        """These records are decided for good. Naming one twice changes nothing."""
        for offset in offsets:
            self._open.pop(offset, None)

    def open_offsets(self, end: int) -> list[int]:
        """The undecided records below this offset."""
        return [offset for offset in self._open if offset < end]

    def watermark(self) -> int | None:
        """The offset to commit: that of the first undecided record, or the next one to be read.

        None before anything was read.
        """
        if self._open:
            return next(iter(self._open))
        return self._next

    @property
    def next_offset(self) -> int | None:
        """One past the last record read; None before anything was read."""
        return self._next

    @property
    def oldest_ms(self) -> int | None:
        """When the first undecided record was produced; None where there is none."""
        return next(iter(self._open.values()), None)

    @property
    def undecided(self) -> int:
        """How many records are read and not yet decided."""
        return len(self._open)
