"""The spool: what the sender does with entries. Used on the sender's thread alone; never raises.

An entry is either put away (it leaves memory, and is read back when Kafka takes it) or kept: written
ahead of Kafka while the records stay in memory, and settled when Kafka has them. Each kind has
segments of its own, so that what is read back is never what memory has too.
"""

import contextlib
import os
import time
from itertools import count
from pathlib import Path
from typing import Final

from msgspec import Struct

from spanferry.log import say_hourly
from spanferry.settings import Settings, SpoolFsync, SpoolMode
from spanferry.spool import entries
from spanferry.spool.backlog import Backlog
from spanferry.spool.directory import Directory, Owner
from spanferry.spool.entries import Entry
from spanferry.spool.log import Health, Log
from spanferry.spool.segments import Segment, Ticket

__all__ = ["Spool", "SpoolCounts", "new_spool"]

_SYNC_S: Final = 1.0
_ADOPT_S: Final = 5.0
_NAMES_TRIED: Final = 5


class SpoolCounts(Struct):
    """Totals since the spool was made."""

    entries_put: int = 0
    traces_put: int = 0
    bytes_put: int = 0
    """Left memory for the disk. What is kept beside memory is not counted here."""
    entries_replayed: int = 0
    bytes_replayed: int = 0
    """Acknowledged by Kafka, other processes' entries included."""
    refused: int = 0
    """Times that nothing could be written: no room, or the disk said no."""
    corrupt_bytes: int = 0
    """Could not be read back."""
    folder_bytes: int = 0
    """What the folder held when it was looked at last: see `Directory.used_bytes`."""


class Spool:
    """One process's part of the folder. `open` first; where that fails nothing is ever taken."""

    def __init__(self, settings: Settings, directory: Directory) -> None:
        self.counts = SpoolCounts()
        self.writes_ahead = settings.spool_mode is SpoolMode.ALWAYS
        """Whether everything is to be kept, not only put away when need be."""
        self.directory = directory
        self.health = Health(directory)
        self.backlog = Backlog(directory)
        self._fsync = settings.spool_fsync
        self._owner: Owner | None = None
        numbers = count(1)
        self._put = Log(
            directory, self.health, self._fsync, numbers=numbers, sealed=self.backlog.add
        )
        self._kept = Log(
            directory, self.health, self._fsync, numbers=numbers, sealed=Segment.complete
        )
        self._kept_segments: set[Segment] = set()
        self._synced_at_s = 0.0
        self._adopted_at_s = -_ADOPT_S

    @property
    def ready(self) -> bool:
        """Whether it is worth trying to write."""
        return self._owner is not None and self.health.good

    def counted(self) -> SpoolCounts:
        """The totals until now. Any thread may ask."""
        self.counts.refused = self.health.refused
        self.counts.corrupt_bytes = self.backlog.corrupt_bytes
        return self.counts

    def open(self) -> None:
        """Claim a name of our own in the folder, which is made where it is missing."""
        try:
            self.directory.make()
            for _ in range(_NAMES_TRIED):
                self._owner = self.directory.own(os.urandom(8).hex())
                if self._owner is not None:
                    return
        except OSError as error:
            self.health.trouble(error)

    def put(self, entry: Entry) -> bool:
        """Write an entry that is to be read back. False where there is no room: it stays the caller's."""
        if self._owner is None or self._put.append(self._owner, entries.encode(entry)) is None:
            return False
        self.counts.entries_put += 1
        self.counts.traces_put += entry.ends_trace
        self.counts.bytes_put += entry.size
        return True

    def keep(self, entry: Entry) -> Ticket | None:
        """Write an entry ahead of Kafka; None where there is no room. Settle it when Kafka has it."""
        if self._owner is None or not self.health.good:
            return None
        written = self._kept.append(self._owner, entries.encode(entry))
        if written is None:
            return None
        segment, offset = written
        self._kept_segments.add(segment)
        return segment.enter(offset)

    def next(self) -> tuple[Ticket, Entry] | None:
        """The next entry to send again, the oldest first; None where none waits."""
        found = self.backlog.next()
        if found is None and self._put.has_open:
            self._put.seal()
            found = self.backlog.next()
        return found

    def replayed(self, size: int) -> None:
        """An entry that `next` gave is in Kafka."""
        self.counts.entries_replayed += 1
        self.counts.bytes_replayed += size

    def tick(self) -> None:
        """What is due by the clock: sync, marks of what is settled, segments that others left."""
        now_s = time.monotonic()
        if self._owner is None:
            if self.health.good:
                self.open()
            return
        if self._owner.lost or self._put.lost or self._kept.lost:
            self._begin_anew(self._owner)
            return
        if self._fsync is SpoolFsync.ALWAYS or now_s - self._synced_at_s >= _SYNC_S:
            self._synced_at_s = now_s
            self._sync()
        if now_s - self._adopted_at_s >= _ADOPT_S:
            self._adopted_at_s = now_s
            try:
                self.backlog.adopt(self._owner)
                self.counts.folder_bytes = self.directory.used_bytes()
            except OSError as error:
                self.health.trouble(error)

    def close(self) -> None:
        """Let go of everything; what is left is for whoever comes next."""
        self._sync()
        self._put.seal()
        self._kept.seal()
        self.backlog.forget()
        if self._owner is not None:
            left = True
            with contextlib.suppress(OSError):
                left = any(one.owner == self._owner.name for one in self.directory.segments())
            self._owner.release(empty=not left)
            self._owner = None

    def forget(self) -> None:
        """In a forked child: all of it is the parent's; close this process's copies of its files."""
        self._put.forget()
        self._kept.forget()
        self.backlog.forget()
        if self._owner is not None:
            self._owner.forget()

    def _begin_anew(self, owner: Owner) -> None:
        """Somebody has emptied the folder, or removed it. What is left of ours there is adopted as
        anybody's is; what waits in memory goes into new files."""
        say_hourly(
            "spool-removed",
            "somebody has removed files from the spool %s: the traces in them are lost. To empty it "
            "leave that to `spanferry spool drop`",
            self.directory.path,
        )
        self._put.forget()
        self._kept.forget()
        self.backlog.begin_anew()
        for segment in self._kept_segments:
            segment.write_done()
            segment.forget()
        self._kept_segments.clear()
        owner.forget()
        self._owner = None
        self.open()

    def _sync(self) -> None:
        self._put.sync()
        self._kept.sync()
        self.backlog.write_done()
        for segment in list(self._kept_segments):
            if segment.finished:
                self._kept_segments.discard(segment)
            else:
                segment.write_done()


def new_spool(settings: Settings) -> Spool | None:
    """The spool that the settings ask for; nothing is looked at before `open`."""
    if not settings.spool_dir:
        return None
    path = Path(settings.spool_dir).absolute()  # apps may go to another folder afterwards
    return Spool(settings, Directory(path, settings.spool_bytes))
