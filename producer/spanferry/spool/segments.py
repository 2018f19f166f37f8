"""Segments: files of entries. Written by one process, read back by it or by the one that inherits.

`<milliseconds since 1970>-<owner>-<number>.open` while it is written, `.seg` afterwards: the names
sort by age. Beside it `.done` lists the offsets of entries that are settled, so that a segment which
is read again gives the others only.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from struct import Struct as Layout
from typing import Final

from spanferry.spool.entries import FRAME_BYTES, Damage, Stored, frame, frames

__all__ = ["HEADER", "Segment", "Ticket", "Writer", "read", "remove", "room_for"]

HEADER: Final = b"spanferry spool 1\n"
"""Begins every segment; says which layout follows."""

_DONE: Final = Layout("<II")
_MODE: Final = 0o600
_DONE_AT_ONCE: Final = 64


class Segment:
    """What is known of one file: how many of its entries somebody still works on.

    It is removed when no entry is left and none can come any more; with damage inside it is put
    aside as `.corrupt` instead.
    """

    __slots__ = (
        "_complete",
        "_done",
        "_on_finished",
        "corrupt_bytes",
        "finished",
        "path",
        "pending",
    )

    def __init__(self, path: Path, on_finished: Callable[[], None] | None = None) -> None:
        """`on_finished` is called once, after the file is gone."""
        self.path = path
        self._on_finished = on_finished
        self.pending = 0
        """Entries that were given out, or are kept in memory, and are not settled."""
        self.corrupt_bytes = 0
        self.finished = False
        """Whether the file is gone."""
        self._complete = False
        self._done: list[int] = []

    def enter(self, offset: int) -> "Ticket":
        """An entry is somebody's to settle."""
        self.pending += 1
        return Ticket(self, offset)

    def settle(self, offset: int) -> None:
        """The entry at `offset` is off our hands."""
        self.pending -= 1
        self._done.append(offset)
        if self._complete and self.pending == 0:
            self._finish()
        elif len(self._done) >= _DONE_AT_ONCE:
            self.write_done()

    def complete(self) -> None:
        """No more entries will be entered."""
        self._complete = True
        if self.pending == 0:
            self._finish()

    def write_done(self) -> None:
        """Note what is settled. Where that fails it will be sent twice, and the worker sees it."""
        if self.finished or not self._done:
            return
        lines = b"".join(_DONE.pack(offset, _check(offset)) for offset in self._done)
        self._done.clear()
        with contextlib.suppress(OSError):
            descriptor = os.open(
                _done_path(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, _MODE
            )
            try:
                os.write(descriptor, lines)
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """The file is somebody else's, or is gone: nothing is written or removed any more."""
        self._complete = False
        self.finished = True

    def _finish(self) -> None:
        if self.corrupt_bytes:
            self.write_done()
            with contextlib.suppress(OSError):
                self.path.rename(self.path.with_suffix(".corrupt"))
        else:
            with contextlib.suppress(OSError):
                self.path.unlink()
        with contextlib.suppress(OSError):
            _done_path(self.path).unlink()
        self.finished = True
        if self._on_finished is not None:
            self._on_finished()


class Ticket:
    """One entry of a segment, to be settled once."""

    __slots__ = ("_offset", "_segment")

    def __init__(self, segment: Segment, offset: int) -> None:
        self._segment = segment
        self._offset = offset

    def settle(self) -> None:
        """The entry need not be sent any more."""
        self._segment.settle(self._offset)


class Writer:
    """The end of a segment that is being written. Every method may raise OSError."""

    __slots__ = ("_descriptor", "_unsynced", "path", "size")

    def __init__(self, path: Path) -> None:
        """Create the file, which must not be there. Where that raises there is none."""
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, _MODE)
        self.size = 0
        self._unsynced = True
        try:
            self._write([HEADER])
        except OSError:  # a full disk takes names where it takes no bytes
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def append(self, payload: bytes) -> int:
        """Write one entry whole, or leave the file as it was and raise. Its offset."""
        offset = self.size
        self._write([frame(payload), payload])
        return offset

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        if self._unsynced:
            self._unsynced = False
            os.fdatasync(self._descriptor)

    @property
    def lost(self) -> bool:
        """Whether somebody has removed the file."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> Path:
        """No more entries: the path under which the segment is found from now on."""
        os.close(self._descriptor)
        sealed = self.path.with_suffix(".seg")
        self.path.rename(sealed)
        return sealed

    def forget(self) -> None:
        """In a forked child: the file is the parent's."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _write(self, parts: list[bytes]) -> None:
        left = sum(map(len, parts))
        try:
            written = os.writev(self._descriptor, parts)
            if written < left:
                rest = memoryview(b"".join(parts))[written:]
                while rest:  # a disk that is nearly full takes a part, and says so at the next one
                    rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += left
        self._unsynced = True


def read(path: Path, settled_too: bool = False) -> Iterator[Stored | Damage]:
    """The entries of a segment that are not settled, in order, and its damage. Raises OSError."""
    settled = set() if settled_too else _settled(path)
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        start = len(HEADER) if file.read(len(HEADER)) == HEADER else 0
        for found in frames(file, start, end):
            if isinstance(found, Damage) or found.offset not in settled:
                yield found


def remove(path: Path) -> None:
    """The segment and what belongs to it. Raises OSError, but not where it is gone already."""
    path.unlink(missing_ok=True)
    _done_path(path).unlink(missing_ok=True)


def room_for(payload: bytes) -> int:
    """Bytes of a segment that holds this entry alone."""
    return len(HEADER) + FRAME_BYTES + len(payload)


def _settled(path: Path) -> set[int]:
    try:
        lines = _done_path(path).read_bytes()
    except OSError:
        return set()
    whole = len(lines) - len(lines) % _DONE.size
    pairs: Iterable[tuple[int, int]] = _DONE.iter_unpack(lines[:whole])
    return {offset for offset, check in pairs if check == _check(offset)}


def _check(offset: int) -> int:
    return zlib.crc32(offset.to_bytes(4, "little"))


def _done_path(path: Path) -> Path:
    return path.with_suffix(".done")
