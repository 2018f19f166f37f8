"""A client's end: what waits is flushed, what Kafka does not take is spooled, and one line says what is
left. All of it within `exit_timeout_s` and STOP_S, however often it is asked for, and whatever Kafka and
the disk do.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from spanferry.buffer import Buffer
from spanferry.client_stats import Stats
from spanferry.log import logger
from spanferry.metrics import totals
from spanferry.native import original
from spanferry.settings import Settings

if TYPE_CHECKING:
    from spanferry.sender import Sender

__all__ = ["STOP_S", "Ending"]

STOP_S: Final = 0.5
"""For so long an end may take beyond its time: the disk writes on, and the sender ends."""

_FLUSH_SHARE: Final = 0.6
"""Of the time, where the disk needs no more than the rest."""
_DISK_BYTES_PER_S: Final = 24 * 1024 * 1024
_DISK_PARCELS_PER_S: Final = 8_000
"""What the sender encodes and writes in a second, of large traces and of small ones, on a busy machine."""
_LAST_S: Final = 0.3
"""While Kafka takes it as fast as the disk would, for so long before the end it is the disk's turn."""
_ONE_END_S: Final = 2.0
"""A server's shutdown flushes, and so does the interpreter's exit right after it: one end."""
_AGAIN_S: Final = 0.2
"""What has come in between gets as much of an end whose time is used up."""
_TURN_S: Final = 0.01
_NEVER_S: Final = float("-inf")


class _Reserve:
    """How much of the time the disk will need for what waits now; asked ever again."""

    def __init__(self, buffer: Buffer, least_s: float) -> None:
        self._buffer = buffer
        self._least_s = least_s
        self._asked_s = time.monotonic()
        self._used_bytes = buffer.used_bytes

    def __call__(self) -> float:
        now_s, used = time.monotonic(), self._buffer.used_bytes
        passed_s, taken = now_s - self._asked_s, self._used_bytes - used
        self._asked_s, self._used_bytes = now_s, used
        if taken >= passed_s * _DISK_BYTES_PER_S:
            return _LAST_S
        needed_s = used / _DISK_BYTES_PER_S + len(self._buffer) / _DISK_PARCELS_PER_S
        return max(needed_s, self._least_s)


class Ending:
    """Asked by any thread. Never raises but what a Ctrl-C raises."""

    def __init__(
        self, settings: Settings, buffer: Buffer, sender: "Sender", stats: Callable[[], Stats]
    ) -> None:
        self._settings = settings
        self._buffer = buffer
        self._sender = sender
        self._stats = stats
        self._turn = original("_thread", "allocate_lock")()
        self._whose_turn = 0
        self._failed_s = self._over_s = _NEVER_S
        self.left_s = 0.0
        """Of the last end: for so long the sender may take to come to its own."""
        self._said: tuple[int, int] | None = None

    @property
    def under_way(self) -> bool:
        """Whether some thread is at it."""
        return self._whose_turn != 0

    def flush_or_spool(self, timeout_s: float) -> bool:
        """Flush; what Kafka does not take in time goes to the spool, or is said to be lost.

        One thread at a time: a SIGTERM comes in the middle of an exit, and finds it done; a handler
        of the app's that asks for it in the very thread that is at it does not wait.
        Where the spool had to take something the sender rests afterwards, so that what is said stays
        true; `Sender.go_on` lets it go on. A Ctrl-C in the middle ends the waiting, and goes on when
        that is done.
        """
        until_s = time.monotonic() + timeout_s + STOP_S
        while not self._turn.acquire(blocking=False):  # by another greenlet of this thread maybe
            # Past the time it may be this thread's own, interrupted right after it had got it.
            if self._whose_turn == threading.get_ident() or time.monotonic() > until_s:
                return False
            time.sleep(_TURN_S)
        try:
            self._whose_turn = threading.get_ident()
            now_s = time.monotonic()
            if now_s - self._failed_s > _ONE_END_S:
                self.left_s = timeout_s + STOP_S
            self._over_s = now_s + self.left_s
            return self._flush_or_spool(timeout_s)
        finally:
            self.left_s = max(self._over_s - time.monotonic(), 0.0)
            self._whose_turn = 0
            self._turn.release()

    def _flush_or_spool(self, timeout_s: float) -> bool:
        spooled_before = self._stats().traces_spooled
        interrupt: KeyboardInterrupt | None = None
        wanted_s = max(self.left_s - STOP_S, min(timeout_s, _AGAIN_S))
        try:
            flushed = self._flush(min(wanted_s, self.left_s))
        except KeyboardInterrupt as error:
            flushed, interrupt = False, error
            self._over_s = min(self._over_s, time.monotonic() + 2 * STOP_S)
        if not flushed and self._settings.spool_dir:
            self._sender.put_away(max(self._over_s - time.monotonic(), 0.0))
        self._failed_s = _NEVER_S if flushed else time.monotonic()
        self._report(flushed, spooled_before, timeout_s)
        totals.tell(last=True)
        if interrupt is not None:
            raise interrupt
        return flushed

    def _flush(self, timeout_s: float) -> bool:
        if not self._settings.spool_dir:
            return self._sender.flush(timeout_s)
        least_s = timeout_s * (1 - _FLUSH_SHARE)
        return self._sender.flush(timeout_s, _Reserve(self._buffer, least_s))

    def _report(self, flushed: bool, spooled_before: int, timeout_s: float) -> None:
        """One line where Kafka has not taken everything."""
        folder = self._settings.spool_dir
        left = self._stats()
        kept = self._sender.dispatcher.ledger.traces_kept
        put = left.traces_spooled - spooled_before
        lost = 0 if flushed else left.traces_buffered - kept
        if not put and self._said == (kept, lost):
            return
        self._said = (kept, lost)
        if folder and put + kept:
            logger.warning(
                "%d traces were not acknowledged by Kafka within %.1f s: they are in the spool %s, "
                "from which the next process sends them, or `spanferry spool replay`%s",
                put + kept,
                timeout_s,
                folder,
                f"; {lost} more are lost" if lost > 0 else "",
            )
        elif lost > 0 or not (flushed or folder or left.buffered_bytes == 0):
            logger.warning(
                "%d traces (%d bytes) were not acknowledged by Kafka within %.1f s and are lost: %s",
                lost,
                left.buffered_bytes,
                timeout_s,
                left.last_error or "no answer",
            )
