"""The byte-bounded buffer between the app's threads and the sender's."""

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from spanferry.log import say_hourly, say_once
from spanferry.parcel import DropReason, Waiting, none_dropped
from spanferry.process import PROCESS
from spanferry.settings import DropPolicy

__all__ = ["Buffer", "BufferCounts", "LockedBuffer", "new_buffer"]


_GIANT_BYTES: Final = 1024 * 1024
"""No parcel up to this size is a giant, however small the buffer is."""


_LITTLE_BYTES: Final = 256 * 1024
"""While no more than that waits, texts keep the memory that orjson took: some 6 MB at most."""


def _giant_of(bytes_max: int) -> int:
    """Parcels above this must not be in the others' way."""
    return max(bytes_max // 8, _GIANT_BYTES)


class BufferCounts(Struct, frozen=True):
    """Totals since a buffer was made. A trace is counted at the parcel that ends it.

    At any moment: parcels == settled + dropped_full + dropped_oversize + dropped_broken + what waits or
    is in flight (parcels dropped after they were taken are counted as settled here, and by the sender).
    """

    parcels: int = 0
    traces: int = 0
    dropped_full: int = 0
    dropped_oversize: int = 0
    dropped_broken: int = 0
    traces_dropped: dict[str, int] = field(default_factory=none_dropped)
    """Traces by the reason for which they were."""

    @property
    def dropped_traces(self) -> int:
        """All of them."""
        return sum(self.traces_dropped.values())


class Buffer:
    """First in, first out; bounded by the bytes that wait or are in flight.

    App threads call `put`; the sender's thread calls `take` and, once Kafka has acknowledged or the
    sender gave up, `release`. There is no lock that a fork or a signal handler could meet closed:
    CPython with its interpreter lock changes threads, and runs signal handlers, between calls and at
    the ends of loops only, so what is read, changed and written back here without a call in between
    is one step. Where there is no such lock, `LockedBuffer` is the same with one of its own.
    """

    __slots__ = (
        "_bytes_max",
        "_dropped_broken",
        "_dropped_full",
        "_dropped_oversize",
        "_dropped_traces",
        "_easy_bytes_max",
        "_little_bytes",
        "_parcels",
        "_policy",
        "_put",
        "_put_parts",
        "_used",
        "on_put",
    )

    def __init__(self, bytes_max: int, policy: DropPolicy) -> None:
        self._bytes_max = bytes_max
        self._easy_bytes_max = bytes_max * 3 // 4 if _giant_of(bytes_max) < bytes_max else bytes_max
        """Up to there everything is taken; the rest is not for giants."""
        self._little_bytes = min(_LITTLE_BYTES, self._easy_bytes_max)
        self._policy = policy
        self._parcels: deque[Waiting] = deque()
        self._used = 0
        self._put = 0
        self._put_parts = 0
        """Of those, parcels that end no trace."""
        self._dropped_full = 0
        self._dropped_oversize = 0
        self._dropped_broken = 0
        self._dropped_traces = none_dropped()
        self.on_put: Callable[[], None] | None = None
        """Called after a `put` until it is set to None: starts who takes."""
        PROCESS.giants.clear()
        PROCESS.roomy = True

    @property
    def used_bytes(self) -> int:
        """Bytes that wait or are in flight."""
        return self._used

    @property
    def counts(self) -> BufferCounts:
        """What has come and gone."""
        return BufferCounts(
            self._put,
            self._put - self._put_parts,
            self._dropped_full,
            self._dropped_oversize,
            self._dropped_broken,
            dict(self._dropped_traces),
        )

    def __len__(self) -> int:
        """Parcels that wait; those in flight are not among them."""
        return len(self._parcels)

    def put(self, waiting: Waiting) -> bool:
        """Append, or drop by policy and count: False where this one was dropped. Never raises."""
        self._put += 1
        if not waiting.ends_trace:
            self._put_parts += 1
        used = self._used + waiting.size
        if used > self._little_bytes:
            PROCESS.roomy = False
            if used > self._easy_bytes_max:
                return self._put_into_full(waiting)
        self._used = used
        self._parcels.append(waiting)
        if self.on_put is not None:
            self._tell()
        return True

    def take(self) -> Waiting | None:
        """The oldest that waits, now the caller's until it is released; None where none does."""
        try:
            return self._parcels.popleft()
        except IndexError:
            return None

    def release(self, size: int) -> None:
        """Parcels of `size` bytes together are acknowledged or given up: their room is free."""
        self._used -= size
        if self._used * 2 < self._little_bytes:
            PROCESS.roomy = True
            if PROCESS.giants:  # looked at last: the first may come in between
                PROCESS.roomy = False

    def _put_into_full(self, waiting: Waiting) -> bool:
        """Drop the oldest that wait until it fits. What is in flight cannot be called back.

        A giant drives nobody out, and leaves a quarter of the buffer to the others. Of a trace that has
        lost a part before nothing is taken.
        """
        size, bytes_max = waiting.size, self._bytes_max
        if waiting.whole is not None and waiting.whole.doomed:
            bytes_max = 0
        elif size > _giant_of(bytes_max):
            bytes_max = self._easy_bytes_max
        elif size <= bytes_max and self._policy is DropPolicy.OLDEST:
            while self._used + size > bytes_max:
                try:
                    oldest = self._parcels.popleft()
                except IndexError:
                    break
                self._used -= oldest.size
                self._drop(oldest)
        used = self._used + size
        if used > bytes_max:
            self._drop(waiting)
            if self.on_put is not None:
                self._tell()
            return False
        self._used = used
        self._parcels.append(waiting)
        if self.on_put is not None:
            self._tell()
        return True

    def _drop(self, waiting: Waiting) -> None:
        dropped = waiting.parcel()  # lets go of its spans
        if dropped.broken:
            reason = DropReason.BROKEN
            self._dropped_broken += 1
        elif dropped.size > self._easy_bytes_max:
            reason = DropReason.OVERSIZE
            self._dropped_oversize += 1
        else:
            reason = DropReason.FULL
            self._dropped_full += 1
        if waiting.whole is not None:
            reason = waiting.whole.lose(reason)
        if waiting.ends_trace:
            self._dropped_traces[reason.value] += 1
        if dropped.broken:  # that has been said where it broke
            return
        say_hourly(
            "buffer-full",
            "the buffer of %d bytes is full: traces are dropped and counted, see stats()",
            self._bytes_max,
        )

    def _tell(self) -> None:
        on_put = self.on_put
        try:
            if on_put is not None:
                on_put()
        except Exception as error:  # noqa: BLE001  the app must not see our troubles
            say_once("put", "the sender could not be started: %r", error)


class LockedBuffer(Buffer):
    """For an interpreter without a lock of its own."""

    __slots__ = ("_lock",)

    def __init__(self, bytes_max: int, policy: DropPolicy) -> None:
        super().__init__(bytes_max, policy)
        self._lock = threading.RLock()  # re-entrant: a signal handler that traces meets itself

    def put(self, waiting: Waiting) -> bool:
        """As without the lock."""
        with self._lock:
            return super().put(waiting)

    def release(self, size: int) -> None:
        """As without the lock."""
        with self._lock:
            super().release(size)


def new_buffer(bytes_max: int, policy: DropPolicy) -> Buffer:
    """What this interpreter needs."""
    has_lock: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return Buffer(bytes_max, policy) if has_lock() else LockedBuffer(bytes_max, policy)
