"""The folder that the processes of a host share, and who owns which segments in it.

Each process writes segments of its own and holds a lock (flock) on `<owner>.lock` while it lives; the
kernel lets go of it with the process, whatever ended it. Whoever gets the lock of another owner
inherits its segments. A second lock, held for moments only, keeps the folder within its bytes: a
segment that is being written counts for more than it has, by its size alone, and its owner asks for
the lock when it goes beyond that. So nothing is noted anywhere that a death could leave behind.
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

__all__ = ["Directory", "Owner", "SegmentFile", "segment_bytes_of"]

_ROOM_LOCK: Final = "room.lock"
_LOCK: Final = ".lock"
_OPEN: Final = ".open"
_SEALED: Final = ".seg"
_CORRUPT: Final = ".corrupt"
_SEGMENT_BYTES_MAX: Final = 16 * 1024 * 1024
_SEGMENT_BYTES_MIN: Final = 64 * 1024
_NAME: Final = re.compile(r"(\d+)-([^-]+)-[^-]+(\.open|\.seg|\.corrupt)")
_RESERVED_BYTES_MIN: Final = 16 * 1024
_RESERVED_STEP_BYTES: Final = 1024 * 1024
_LOCK_S: Final = 1.0
"""For so long the lock is waited for: Kafka is away from all processes of a host at the same time."""
_LOOK_S: Final = 0.002


class SegmentFile(Struct, frozen=True):
    """A segment as the folder shows it."""

    path: Path
    owner: str
    created_ms: int
    size: int

    @property
    def sealed(self) -> bool:
        """Whether its owner has finished writing it."""
        return self.path.suffix != _OPEN

    @property
    def corrupt(self) -> bool:
        """Whether it was put aside for its damage."""
        return self.path.suffix == _CORRUPT


class Owner:
    """The lock of one owner's segments; held until `release`, or the process's end."""

    __slots__ = ("_descriptor", "_path", "name")

    def __init__(self, name: str, path: Path, descriptor: int) -> None:
        self.name = name
        self._path = path
        self._descriptor = descriptor

    @property
    def lost(self) -> bool:
        """Whether somebody has removed the lock's file: then others may take it for theirs."""
        return os.fstat(self._descriptor).st_nlink == 0

    def release(self, *, empty: bool) -> None:
        """Let others inherit; where nothing is left the lock's file goes too."""
        if empty:
            with contextlib.suppress(OSError):
                self._path.unlink()
        with contextlib.suppress(OSError):  # a child that was forked meanwhile has a copy
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        """Close this process's copy of the lock: a forked child does not own what its parent does."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class Directory:
    """Names and locks; no entry is read or written here. Methods raise OSError unless they say not."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self.bytes_max = bytes_max
        self.segment_bytes = segment_bytes_of(bytes_max)

    def make(self) -> None:
        """Create the folder, for this user alone: payloads are in it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def own(self, name: str) -> Owner | None:
        """The lock of that owner; None where somebody else holds it. New owners come by a new name."""
        path = self.path / f"{name}{_LOCK}"
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        owner = Owner(name, path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return owner
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                owner.release(empty=new)  # a full disk takes names where it takes no bytes
                raise
        owner.forget()
        return None

    def holder_of(self, name: str) -> int | None:
        """The process that has this owner's lock; None where nobody has, 0 where it has not said yet."""
        try:
            with (self.path / f"{name}{_LOCK}").open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or 0)
        except FileNotFoundError:
            pass
        return None

    def segments(self) -> list[SegmentFile]:
        """All there are, the oldest first. Names that are not ours are left alone."""
        found = [
            SegmentFile(self.path / name.string, name[2], int(name[1]), size)
            for name, size in self._sizes()
        ]
        return sorted(found, key=lambda one: one.path.name)

    def owners(self) -> set[str]:
        """Every name that has a lock's file or a segment."""
        locks = {path.stem for path in self.path.glob(f"*{_LOCK}") if path.name != _ROOM_LOCK}
        return locks | {one.owner for one in self.segments() if not one.corrupt}

    def abandoned(self, but: frozenset[str] = frozenset()) -> Iterator[Owner]:
        """Owners that nobody is any more: they are the caller's from now on."""
        for name in sorted(self.owners() - but):
            owner = self.own(name)
            if owner is not None:
                yield owner

    def used_bytes(self) -> int:
        """What the segments take, with what is reserved for those that are being written."""
        return sum(
            self.reserved_for(size) if name[3] == _OPEN else size for name, size in self._sizes()
        )

    def reserved_for(self, size: int) -> int:
        """What an open segment of that size counts for: so far its owner writes on without asking.

        It doubles, and from some size on grows by equal steps: little is held back from the others,
        and not asked for often.
        """
        if size > self.segment_bytes:
            return size
        if size > _RESERVED_STEP_BYTES:
            reserved = -(-size // _RESERVED_STEP_BYTES) * _RESERVED_STEP_BYTES
        else:
            reserved = max(_RESERVED_BYTES_MIN, 1 << (size - 1).bit_length())
        return min(reserved, self.segment_bytes)

    @contextlib.contextmanager
    def room(self, size: int, grown_from: int = 0) -> Generator[bool, None, None]:
        """Whether an open segment may have so many bytes; they are to be written within the block.

        `grown_from`: what it has already; 0 where there is none yet.
        """
        more = self.reserved_for(size) - (self.reserved_for(grown_from) if grown_from else 0)
        with self.locked() as held:
            if not held:
                raise OSError(errno.EBUSY, "another process keeps the folder's lock")
            yield self.used_bytes() + more <= self.bytes_max

    @contextlib.contextmanager
    def locked(self) -> Generator[bool, None, None]:
        """Whether nobody else looks at the sizes meanwhile: a name that changes then may be missed."""
        descriptor = os.open(self.path / _ROOM_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _lock_soon(descriptor)
        finally:
            with contextlib.suppress(OSError):  # a child that was forked meanwhile has a copy
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def new_segment(self, owner: Owner, number: int, now_ms: int) -> Path:
        """The path of an owner's next segment; nothing is created."""
        return self.path / f"{now_ms:013d}-{owner.name}-{number:06d}{_OPEN}"

    def _sizes(self) -> Iterator[tuple[re.Match[str], int]]:
        """The name and the size of each segment, in no order."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if name is not None:
                    with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
                        yield name, entry.stat().st_size


def segment_bytes_of(bytes_max: int) -> int:
    """How large segments get: a sixteenth of the whole, within bounds that suit disks."""
    return min(_SEGMENT_BYTES_MAX, max(_SEGMENT_BYTES_MIN, bytes_max // 16))


def _lock_soon(descriptor: int) -> bool:
    """Who holds it does little, unless it was stopped meanwhile: then False, after a while."""
    until_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                return False
            time.sleep(_LOOK_S)
        else:
            return True
