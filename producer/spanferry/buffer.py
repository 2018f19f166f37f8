"""The byte-bounded buffer between the app's threads and the sender's."""

import threading
from collections import deque

from msgspec import Struct

from spanferry.parcel import Parcel
from spanferry.settings import DropPolicy

__all__ = ["Buffer", "BufferCounts"]


class BufferCounts(Struct):
    """Totals since the buffer was made. A trace is counted at the parcel that ends it.

    At any moment: parcels == settled + dropped_full + dropped_oversize + what waits or is in flight
    (parcels dropped after they were taken are counted as settled here, and by the sender).
    """

    parcels: int = 0
    traces: int = 0
    dropped_full: int = 0
    dropped_oversize: int = 0
    dropped_traces: int = 0


class Buffer:
    """First in, first out; bounded by the bytes that wait or are in flight.

    App threads call `put`; the sender's thread calls `take` and, once Kafka has acknowledged or the
    sender gave up, `release`. Nothing but counting and an append happens under the lock. It is
    re-entrant, so that a signal handler that traces cannot meet itself.
    """

    def __init__(self, bytes_max: int, policy: DropPolicy) -> None:
        self._bytes_max = bytes_max
        self._policy = policy
        self._parcels: deque[Parcel] = deque()
        self._used = 0
        self._lock = threading.RLock()
        self.counts = BufferCounts()

    @property
    def used_bytes(self) -> int:
        """Bytes that wait or are in flight."""
        return self._used

    def __len__(self) -> int:
        """Parcels that wait; those in flight are not among them."""
        return len(self._parcels)

    def put(self, parcel: Parcel) -> bool:
        """Append, or drop by policy and count. False where this parcel was dropped."""
        counts = self.counts
        size = parcel.size
        with self._lock:
            counts.parcels += 1
            if parcel.end is not None:
                counts.traces += 1
            if size > self._bytes_max:
                counts.dropped_oversize += 1
                self._count_dropped_trace(parcel)
                return False
            if self._used + size > self._bytes_max and not self._make_room(size):
                counts.dropped_full += 1
                self._count_dropped_trace(parcel)
                return False
            self._used += size
            self._parcels.append(parcel)
        return True

    def take(self) -> Parcel | None:
        """The oldest parcel, now the caller's until it is released; None where none waits."""
        try:
            return self._parcels.popleft()
        except IndexError:
            return None

    def release(self, size: int) -> None:
        """Parcels of `size` bytes together are acknowledged or given up: their room is free."""
        with self._lock:
            self._used -= size

    def _make_room(self, size: int) -> bool:
        """Drop the oldest that wait until `size` fits. What is in flight cannot be called back."""
        if self._policy is not DropPolicy.OLDEST:
            return False
        while self._used + size > self._bytes_max:
            oldest = self.take()
            if oldest is None:
                return False
            self._used -= oldest.size
            self.counts.dropped_full += 1
            self._count_dropped_trace(oldest)
        return True

    def _count_dropped_trace(self, parcel: Parcel) -> None:
        if parcel.end is not None:
            self.counts.dropped_traces += 1
