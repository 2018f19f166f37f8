"""The backlog: segments to be read back, a process's own and those that others left behind."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from spanferry.log import logger
from spanferry.spool import entries
from spanferry.spool.directory import Directory, Owner
from spanferry.spool.entries import Damage, Entry, Stored
from spanferry.spool.segments import Segment, Ticket, read

__all__ = ["Backlog"]


class _Legacy:
    """Another owner's segments, until the last one is gone; then its lock goes too."""

    def __init__(self, owner: Owner, left: int, gone: Callable[["_Legacy"], None]) -> None:
        self.owner = owner
        self._left = left
        self._gone = gone

    def finished(self) -> None:
        """One of them is gone."""
        self._left -= 1
        if self._left == 0:
            self.owner.release(empty=True)
            self._gone(self)


class Backlog:
    """Gives entries one by one, segment by segment. Only `adopt` raises OSError."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._waiting: deque[Segment] = deque()
        self._legacies: list[_Legacy] = []
        self._reading: tuple[Segment, Iterator[Stored | Damage]] | None = None
        self._unfinished: set[Segment] = set()
        self.corrupt_bytes = 0
        """What could not be read back."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing that was given out is unsettled."""
        return not (self._reading or self._waiting or self._unfinished)

    def add(self, segment: Segment) -> None:
        """A segment of our own is complete on disk."""
        self._waiting.append(segment)

    def adopt(self, own: Owner) -> None:
        """Take over what owners that are gone have left; it goes before what is newer."""
        mine: Final = frozenset({own.name, *(legacy.owner.name for legacy in self._legacies)})
        for owner in self._directory.abandoned(mine):
            left = [
                one
                for one in self._directory.segments()
                if one.owner == owner.name and not one.corrupt
            ]
            if not left:
                owner.release(empty=True)
                continue
            legacy = _Legacy(owner, len(left), self._legacies.remove)
            self._legacies.append(legacy)
            for one in reversed(left):
                self._waiting.appendleft(Segment(one.path, legacy.finished))
            size = sum(one.size for one in left)
            logger.info("sending %d bytes that another process left in the spool", size)

    def next(self) -> tuple[Ticket, Entry] | None:
        """The next entry; None where none waits. The ticket is to be settled when it is sent."""
        while self._reading is not None or self._begin():
            assert self._reading is not None
            segment, found = self._reading
            try:
                one = next(found, None)
            except OSError as error:
                self._corrupt(segment, 1, f"cannot be read on: {error}")
                one = None
            if one is None:
                self._reading = None
                segment.complete()
                if not segment.pending:
                    self._unfinished.discard(segment)
            elif isinstance(one, Damage):
                self._damaged(segment, one)
            else:
                try:
                    return segment.enter(one.offset), entries.decode(one.payload)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    segment.pending -= 1
                    self._corrupt(segment, len(one.payload), f"holds what cannot be read: {error}")
        return None

    def write_done(self) -> None:
        """Note on disk what is settled."""
        for segment in list(self._unfinished):
            if segment.finished:
                self._unfinished.discard(segment)
            else:
                segment.write_done()

    def forget(self) -> None:
        """Let go of what others left, for the next one; in a forked child it is the parent's."""
        for legacy in self._legacies:
            legacy.owner.forget()

    def begin_anew(self) -> None:
        """Let go of everything: it waits on disk for whoever adopts it, as far as it is there."""
        self.write_done()
        self.forget()
        self._legacies.clear()
        for segment in self._unfinished:
            segment.forget()
        self._unfinished.clear()
        self._waiting.clear()
        self._reading = None

    def _begin(self) -> bool:
        if not self._waiting:
            return False
        segment = self._waiting.popleft()
        self._unfinished.add(segment)
        self._reading = (segment, read(segment.path))
        return True

    def _damaged(self, segment: Segment, damage: Damage) -> None:
        if damage.at_end and segment.path.suffix == ".open":
            return  # its owner died while it wrote this
        self._corrupt(segment, damage.length, f"is damaged at byte {damage.offset}")

    def _corrupt(self, segment: Segment, size: int, what: str) -> None:
        segment.corrupt_bytes += size
        self.corrupt_bytes += size
        logger.warning(
            "the spool's segment %s %s; the rest of it is sent, and it is put aside as .corrupt",
            segment.path,
            what,
        )
