"""A log: one process's segments of one kind, written one after the other."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from spanferry.log import say_hourly
from spanferry.settings import SpoolFsync
from spanferry.spool.directory import Directory, Owner
from spanferry.spool.entries import FRAME_BYTES
from spanferry.spool.segments import Segment, Writer, room_for

if TYPE_CHECKING:
    from itertools import count

__all__ = ["Health", "Log"]

_RETRY_S: Final = 1.0


class Health:
    """Whether the disk takes anything. After a refusal nobody asks it again for a second."""

    __slots__ = ("_directory", "_retry_at_s", "refused")

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._retry_at_s = 0.0
        self.refused = 0
        """Times that it did not."""

    @property
    def good(self) -> bool:
        """Whether it is worth trying."""
        return time.monotonic() >= self._retry_at_s

    def trouble(self, error: Exception) -> None:
        """It has refused; said at most hourly for each kind of trouble."""
        self._retry_at_s = time.monotonic() + _RETRY_S
        self.refused += 1
        number = error.errno if isinstance(error, OSError) else type(error).__name__
        what = error.strerror if isinstance(error, OSError) else None
        say_hourly(
            f"spool-{number}",
            "nothing can be spooled to %s now (%s): traces wait in memory. Make room there or raise "
            "spool_bytes; `spanferry spool status` says what is there.",
            self._directory.path,
            what or error,
        )


class _Open(Struct):
    """The segment that is being written."""

    writer: Writer
    segment: Segment


class Log:
    """Appends entries; begins another segment where one is full. Never raises."""

    def __init__(
        self,
        directory: Directory,
        health: Health,
        fsync: SpoolFsync,
        *,
        numbers: "count[int]",
        sealed: Callable[[Segment], None],
    ) -> None:
        """`numbers` are shared by an owner's logs; `sealed` takes each segment that is full."""
        self._directory = directory
        self._health = health
        self._fsync = fsync
        self._numbers = numbers
        self._sealed = sealed
        self._open: _Open | None = None

    @property
    def has_open(self) -> bool:
        """Whether there is a segment that is not sealed yet."""
        return self._open is not None

    @property
    def lost(self) -> bool:
        """Whether somebody has removed the segment that is being written."""
        return self._open is not None and self._open.writer.lost

    def append(self, owner: Owner, payload: bytes) -> tuple[Segment, int] | None:
        """Where the entry is now; None where there is no room for it, or the disk said no."""
        try:
            return self._append_to_open(payload) or self._begin(owner, payload)
        except Exception as error:  # noqa: BLE001  what a disk answers to may be anything
            self._health.trouble(error)
            return None

    def _append_to_open(self, payload: bytes) -> tuple[Segment, int] | None:
        """None where the entry is to go into another segment: then there is no open one any more."""
        opened, directory = self._open, self._directory
        if opened is None:
            return None
        size = opened.writer.size
        grown = size + FRAME_BYTES + len(payload)
        if grown <= directory.segment_bytes:
            if grown <= directory.reserved_for(size):
                return opened.segment, opened.writer.append(payload)
            with directory.room(grown, grown_from=size) as there_is:
                if there_is:
                    return opened.segment, opened.writer.append(payload)
        self.seal()  # it counts for what it has from now on, so that a small one may find room
        return None

    def sync(self) -> None:
        """Wait for the disk, unless the policy is never to."""
        if self._open is not None and self._fsync is not SpoolFsync.NEVER:
            with self._trouble_is_said():
                self._open.writer.sync()

    def seal(self) -> None:
        """End the segment that is being written, if there is one."""
        opened, self._open = self._open, None
        if opened is None:
            return
        with self._trouble_is_said():
            if self._fsync is not SpoolFsync.NEVER:
                opened.writer.sync()
        with self._trouble_is_said(), contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # no folder any more
                stack.enter_context(self._directory.locked())
            opened.segment.path = opened.writer.close()
        self._sealed(opened.segment)

    def forget(self) -> None:
        """In a forked child: the file is the parent's. It stays as it is."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.writer.forget()

    def _begin(self, owner: Owner, payload: bytes) -> tuple[Segment, int]:
        with self._directory.room(room_for(payload)) as there_is:
            if not there_is:
                raise OSError(errno.EDQUOT, "spool_bytes are used up")
            now_ms = time.time_ns() // 1_000_000
            path = self._directory.new_segment(owner, next(self._numbers), now_ms)
            opened = self._open = _Open(Writer(path), Segment(path))
            offset = opened.writer.append(payload)
        if self._fsync is not SpoolFsync.NEVER:
            with self._trouble_is_said():
                _sync_names(self._directory)
        return opened.segment, offset

    @contextlib.contextmanager
    def _trouble_is_said(self) -> Generator[None, None, None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  as above
            self._health.trouble(error)


def _sync_names(directory: Directory) -> None:
    descriptor = os.open(directory.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
