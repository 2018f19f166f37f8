"""Switching on and off, flushing, counting; forks and the interpreter's exit."""

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Unpack

from msgspec import Struct

from spanferry import bridge, outlet, termination
from spanferry.buffer import Buffer, new_buffer
from spanferry.log import logger
from spanferry.process import PROCESS
from spanferry.settings import Options, Settings, load_settings, switched_off

if TYPE_CHECKING:
    from spanferry.parcel import Waiting
    from spanferry.sender import Sender

__all__ = ["Client", "Stats", "disable", "enable", "flush", "stats"]

_FLUSH_TIMEOUT_S: Final = 10.0

_FLUSH_SHARE: Final = 0.6
"""Of the time to exit, where the rest is for the spool."""

_STOP_S: Final = 0.5
"""For so long the sender may take to end once nothing is left for it to do."""


class Stats(Struct, frozen=True, kw_only=True):
    """The app side's account since `enable()`, or since the fork in a forked process.

    A parcel is what one trace hands over at once (a long trace hands over several); a trace is
    counted when its local root has ended.
    traces == traces_sent + traces_spooled + traces_dropped + traces_buffered.
    """

    enabled: bool = False
    connected: bool = False
    """Whether a Kafka producer is connected at this moment."""
    traces: int = 0
    traces_sent: int = 0
    """Acknowledged by Kafka."""
    traces_spooled: int = 0
    """Put into the spool, from which they are sent later; by another process where this one ends."""
    traces_dropped: int = 0
    traces_buffered: int = 0
    """Waiting or in flight."""
    parcels: int = 0
    parcels_sent: int = 0
    parcels_spooled: int = 0
    parcels_dropped: int = 0
    dropped: dict[str, int] = {}
    """Parcels dropped, by reason: buffer_full, oversize, refused, broken."""
    values_redacted: int = 0
    """Inputs, outputs, attributes, events, texts of which something was replaced."""
    values_withheld: int = 0
    """Values whose redaction failed: they were not sent."""
    payloads_truncated: int = 0
    """Payloads that were cut to a preview."""
    buffered_bytes: int = 0
    buffer_bytes: int = 0
    """The limit of `buffered_bytes`."""
    records_sent: int = 0
    bytes_sent: int = 0
    """Before compression."""
    batches_sent: int = 0
    batches_failed: int = 0
    connects: int = 0
    spool_bytes_put: int = 0
    """Moved from memory to the spool."""
    spool_parcels_replayed: int = 0
    spool_bytes_replayed: int = 0
    """Moved from the spool to Kafka, what other processes have left included."""
    spool_refused: int = 0
    """Times that the spool was full, or its disk."""
    spool_corrupt_bytes: int = 0
    """Could not be read back."""
    last_error: str | None = None
    """What Kafka answered last when it did not take a batch or a connection."""


class Client:
    """The outlet that leads to Kafka: one buffer, one sender. New inner parts after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inherited: list[Sender] = []
        self._set_up()

    def _set_up(self) -> None:
        self._buffer = new_buffer(self._settings.buffer_bytes, self._settings.drop)
        self._sender = _new_sender(self._settings, self._buffer)
        self._buffer.on_put = self._start_late
        self.put: Callable[[Waiting], bool] = self._buffer.put
        """The buffer's own, because it runs at every trace's end."""

    @property
    def settings(self) -> Settings:
        """The options in force."""
        return self._settings

    def _start_late(self) -> None:
        """At the first trace after a fork, in a server's worker for one."""
        self._sender.start()
        termination.look_for_a_server()

    def start(self) -> None:
        """Start the sender now instead of at the first trace."""
        self._sender.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was put before is acknowledged. False where the time was not enough."""
        return self._sender.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Flush, then end the sender. False, and one line in the log, where traces are left."""
        deadline_s = time.monotonic() + timeout_s
        flushed = self._flush_or_spool(timeout_s)
        self._sender.stop(max(deadline_s - time.monotonic(), _STOP_S))
        return flushed

    def flush_before_termination(self) -> None:
        """As `close`, for a process that is about to end or, as a container's first one, may not."""
        self._flush_or_spool(self._settings.exit_timeout_s)

    def _flush_or_spool(self, timeout_s: float) -> bool:
        """Flush; what Kafka does not take in time goes to the spool, or is said to be lost."""
        folder = self._settings.spool_dir
        spooled_before = self.stats().traces_spooled
        deadline_s = time.monotonic() + timeout_s
        flushed = self.flush(timeout_s * _FLUSH_SHARE if folder else timeout_s)
        if not flushed and folder:
            self._sender.put_away(max(deadline_s - time.monotonic(), 0.0))
        left = self.stats()
        kept = self._sender.dispatcher.ledger.traces_kept
        spooled = left.traces_spooled - spooled_before + kept
        if folder and spooled:
            logger.warning(
                "%d traces were not acknowledged by Kafka within %.1f s: they are in the spool %s, "
                "from which the next process sends them, or `spanferry spool replay`",
                spooled,
                timeout_s,
                folder,
            )
        if not flushed and (left.traces_buffered > kept or not folder):
            logger.warning(
                "%d traces (%d bytes) were not acknowledged by Kafka within %.1f s and are lost: %s",
                left.traces_buffered - kept,
                left.buffered_bytes,
                timeout_s,
                left.last_error or "no answer",
            )
        return flushed

    def after_fork(self) -> None:
        """In the child: what waits belongs to the parent; locks, thread and sockets are made anew.

        The parent's sender is kept, so that nothing of it is finalised in the child: its sockets
        and its epoll set are shared with the parent.
        """
        if PROCESS.finisher is not None:
            PROCESS.finisher.forget()
        self._inherited.append(self._sender)
        self._sender.forget()
        self._set_up()

    def stats(self) -> Stats:
        """The account of this process."""
        put, sent, state = self._buffer.counts, self._sender.dispatcher.counts, self._sender.state
        drops = self._sender.dispatcher.stager.drops
        spool = self._sender.dispatcher.spool_counts
        dropped = {
            "buffer_full": put.dropped_full,
            "oversize": put.dropped_oversize + drops.oversize,
            "refused": drops.refused,
            "broken": drops.broken,
        }
        finished = outlet.finished()
        traces_dropped = put.dropped_traces + drops.traces
        return Stats(
            enabled=True,
            connected=state.connected,
            traces=put.traces,
            traces_sent=sent.traces_sent,
            traces_spooled=sent.traces_spooled,
            traces_dropped=traces_dropped,
            traces_buffered=put.traces - sent.traces_sent - sent.traces_spooled - traces_dropped,
            parcels=put.parcels,
            parcels_sent=sent.parcels_sent,
            parcels_spooled=sent.parcels_spooled,
            parcels_dropped=sum(dropped.values()),
            dropped=dropped,
            values_redacted=finished.redacted,
            values_withheld=finished.withheld,
            payloads_truncated=finished.truncated,
            buffered_bytes=self._buffer.used_bytes,
            buffer_bytes=self._settings.buffer_bytes,
            records_sent=sent.records_sent,
            bytes_sent=sent.bytes_sent,
            batches_sent=sent.batches_sent,
            batches_failed=sent.batches_failed,
            connects=state.connects,
            spool_bytes_put=spool.bytes_put,
            spool_parcels_replayed=spool.entries_replayed,
            spool_bytes_replayed=spool.bytes_replayed,
            spool_refused=spool.refused,
            spool_corrupt_bytes=spool.corrupt_bytes,
            last_error=state.last_error,
        )


def _new_sender(settings: Settings, buffer: Buffer) -> "Sender":
    """The sender needs asyncio: 30 ms of import that only apps which enable tracing pay."""
    from spanferry.sender import Sender  # noqa: PLC0415

    return Sender(settings, buffer)


_client: Client | None = None
_switch = threading.Lock()


def enable(**options: Unpack[Options]) -> None:
    """Start sending traces to Kafka. Call it once when the app starts.

    Every option of `Settings` can be given by name, or as the environment variable
    SPANFERRY_<OPTION>; arguments go first. Kafka need not be there yet: traces wait in the buffer.
    Called again it replaces the options, after a flush of at most `exit_timeout_s`.

    A SIGTERM that nobody handles ends the process after such a flush too.

    With SPANFERRY_ENABLED=false in the environment nothing happens.

    Raises ConfigurationError, here and never later, where an option is missing or wrong.
    """
    if switched_off(os.environ):
        logger.info("tracing stays off: SPANFERRY_ENABLED=%s", os.environ["SPANFERRY_ENABLED"])
        return
    settings = load_settings(options, os.environ)
    disable()
    with _switch:
        client = Client(settings)
        _install(client)
        if settings.mlflow:
            bridge.switch_on(accelerate=settings.accelerate)
        client.start()
        termination.flush_first(client.flush_before_termination)


def disable() -> None:
    """Flush for at most `exit_timeout_s`, then stop. Traced functions go on untraced."""
    with _switch:
        client = _client
        if client is not None:
            bridge.switch_off()
        _install(None)
        if client is not None:
            client.close(client.settings.exit_timeout_s)
            termination.restore()


def flush(timeout_s: float = _FLUSH_TIMEOUT_S) -> bool:
    """Wait until Kafka has acknowledged every trace that ended before. Not for the request path.

    Returns False where `timeout_s` was not enough; nothing is dropped then.
    """
    client = _client
    if client is None:
        return True
    bridge.hand_over_what_has_ended()
    return client.flush(timeout_s)


def stats() -> Stats:
    """The account of this process; `enabled` is False before `enable()`."""
    client = _client
    return client.stats() if client is not None else Stats()


def _install(client: Client | None) -> None:
    global _client  # noqa: PLW0603  the process has one
    _client = client
    outlet.install(client)


def _after_fork() -> None:
    global _switch  # noqa: PLW0603  it may have been held by a thread that is not here
    _switch = threading.Lock()
    if _client is not None:
        _client.after_fork()


def _at_exit() -> None:
    client = _client
    if client is not None:
        _install(None)
        client.close(client.settings.exit_timeout_s)
        termination.restore()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
