"""A first look at all letters: which are wanted, and which of these were replayed before."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.dead_letter import Letter, Selection, read_letter
from spanferry_worker.stages.receipts import Offsets, Receipts

__all__ = ["Kind", "Survey"]


class Kind(NamedTuple):
    """What letters are counted by: why they died, and where they would go ("": that is not known)."""

    reason: str
    target: str


class Survey:
    """Fed with every record of the topic; holds ranges of offsets, not letters.

    `target_of` says where a letter would be replayed to. With None in its place it does not matter
    where one was replayed to.
    """

    def __init__(
        self, selection: Selection, target_of: Callable[[Letter], str] | None = None
    ) -> None:
        self._selection = selection
        self._target_of = target_of
        self._found: dict[tuple[int, Kind], Offsets] = {}
        self.receipts = Receipts()
        self.letters = 0
        """All that were seen, wanted or not."""

    def see(self, record: Record) -> None:
        """Take the next record."""
        if self.receipts.read(record):
            return
        self.letters += 1
        letter = read_letter(record)
        if self._selection.takes(letter):
            kind = Kind(letter.reason, self.target(letter) or "")
            self._found.setdefault((letter.partition, kind), Offsets()).add(letter.offset)

    def target(self, letter: Letter) -> str | None:
        """Where it would be replayed to; None where that does not matter."""
        return None if self._target_of is None else self._target_of(letter)

    def wanted(self, letter: Letter, *, again: bool) -> bool:
        """Whether it is one of those that `counts` counts. Asked once all are seen."""
        if not self._selection.takes(letter):
            return False
        if again:
            return True
        return letter.offset not in self.receipts.offsets(letter.partition, self.target(letter))

    def counts(self, *, again: bool) -> Counter[Kind]:
        """How many were wanted; without `again` those only which were not replayed before."""
        counts: Counter[Kind] = Counter()
        for (partition, kind), offsets in self._found.items():
            target = None if self._target_of is None else kind.target
            before = 0 if again else offsets.common(self.receipts.offsets(partition, target))
            counts[kind] += len(offsets) - before
        return +counts
