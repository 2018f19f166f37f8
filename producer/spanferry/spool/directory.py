"""The folder that the processes of a host share, and who owns which segments in it.

Each process writes segments of its own and holds a lock (flock) on `<owner>.lock` while it lives; the
kernel lets go of it with the process, whatever ended it. Whoever gets the lock of another owner
inherits its segments. A second lock, held for moments only, keeps the folder within its bytes.
"""

import contextlib
import fcntl
import os
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
_ATTEMPTS: Final = 20
_ATTEMPT_S: Final = 0.002


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
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                path = Path(entry.path)
                parts = path.stem.split("-")
                if (
                    path.suffix in {_OPEN, _SEALED, _CORRUPT}
                    and len(parts) == 3
                    and parts[0].isdecimal()
                ):
                    with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
                        size = entry.stat().st_size
                        found.append(SegmentFile(path, parts[1], int(parts[0]), size))
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
        """What the segments take; one that is being written counts as full."""
        return sum(
            one.size if one.sealed else max(one.size, self.segment_bytes) for one in self.segments()
        )

    @contextlib.contextmanager
    def room(self, size: int) -> Generator[bool, None, None]:
        """Whether a segment of so many bytes may be created within the block."""
        descriptor = os.open(self.path / _ROOM_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            held = _lock_soon(descriptor)
            yield held and self.used_bytes() + max(size, self.segment_bytes) <= self.bytes_max
        finally:
            with contextlib.suppress(OSError):  # a child that was forked meanwhile has a copy
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def new_segment(self, owner: Owner, number: int, now_ms: int) -> Path:
        """The path of an owner's next segment; nothing is created."""
        return self.path / f"{now_ms:013d}-{owner.name}-{number:06d}{_OPEN}"


def segment_bytes_of(bytes_max: int) -> int:
    """How large segments get: a sixteenth of the whole, within bounds that suit disks."""
    return min(_SEGMENT_BYTES_MAX, max(_SEGMENT_BYTES_MIN, bytes_max // 16))


def _lock_soon(descriptor: int) -> bool:
    """Try for some 40 ms: who holds it does little, unless it was stopped meanwhile."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_ATTEMPT_S)
        else:
            return True
    return False
