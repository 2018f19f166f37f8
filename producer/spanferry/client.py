"""Switching on and off, flushing, counting; forks and the interpreter's exit."""

import atexit
import contextlib
import importlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Unpack

from spanferry import bridge, leaving, opening, outlet, termination
from spanferry.buffer import Buffer, new_buffer
from spanferry.client_stats import Stats, parcels_dropped, traces_dropped
from spanferry.ending import STOP_S, Ending
from spanferry.finishing import shorten
from spanferry.log import logger
from spanferry.metrics import totals
from spanferry.native import greenlets
from spanferry.process import PROCESS
from spanferry.settings import Options, Settings, load_settings, switched_off

if TYPE_CHECKING:
    from spanferry.loop import Rest
    from spanferry.parcel import Waiting
    from spanferry.sender import Sender

__all__ = ["Client", "Stats", "disable", "enable", "enable_late", "flush", "stats"]

_FLUSH_TIMEOUT_S: Final = 10.0


class Client:
    """The outlet that leads to Kafka: one buffer, one sender. New inner parts after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inherited: list[Sender] = []
        self._set_up()

    def _set_up(self) -> None:
        self._buffer = new_buffer(self._settings.buffer_bytes, self._settings.drop)
        self._sender = _new_sender(self._settings, self._buffer)
        self._ending = Ending(self._settings, self._buffer, self._sender, self.stats)
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
        stop_s = STOP_S
        try:
            flushed = self._ending.flush_or_spool(timeout_s)
            stop_s = timeout_s + STOP_S
            return flushed
        finally:
            self._sender.stop(min(stop_s, self._ending.left_s))

    def flush_before_termination(self) -> None:
        """As `close`, for a process that is about to end or, as a container's first one, may not.

        Traces that are open may go on: what of them has ended is sent as at the interpreter's exit,
        and the rest follows if there is one.
        """
        bridge.hand_over_what_has_ended()
        try:
            self._ending.flush_or_spool(self._settings.exit_timeout_s)
        finally:
            if not self._ending.under_way:  # this was asked for in the middle of it
                self._sender.go_on()

    def before_fork(self) -> "Rest | None":
        """Wait for the sender to rest; what is returned is to `begin` again once it is over."""
        rest = self._sender.rest
        return rest if rest.hold() else None

    def after_fork(self) -> None:
        """In the child: what waits belongs to the parent; locks, thread and sockets are made anew.

        The parent's sender is kept, so that nothing of it is finalised in the child: its sockets
        and its epoll set are shared with the parent.
        """
        if PROCESS.finisher is not None:
            PROCESS.finisher.forget()
        shorten(0)  # what the parent's guard has found holds for the parent's threads
        self._inherited.append(self._sender)
        self._sender.forget()
        self._set_up()

    def stats(self) -> Stats:
        """The account of this process."""
        put, sent, state = self._buffer.counts, self._sender.dispatcher.counts, self._sender.state
        drops = self._sender.dispatcher.stager.drops
        spool = self._sender.dispatcher.spool_counts
        dropped, traces_lost = parcels_dropped(put, drops), traces_dropped(put, drops)
        finished, overhead = outlet.finished(), self._sender.guard.overhead
        lost = sum(traces_lost.values())
        return Stats(
            enabled=True,
            connected=state.connected,
            traces=put.traces,
            traces_sent=sent.traces_sent,
            traces_spooled=sent.traces_spooled,
            traces_dropped=lost,
            traces_dropped_by_reason=traces_lost,
            traces_buffered=put.traces - sent.traces_sent - sent.traces_spooled - lost,
            parcels=put.parcels,
            parcels_sent=sent.parcels_sent,
            parcels_spooled=sent.parcels_spooled,
            parcels_dropped=sum(dropped.values()),
            dropped=dropped,
            values_redacted=finished.redacted,
            values_withheld=finished.withheld,
            payloads_truncated=finished.truncated,
            traces_shortened=finished.shortened,
            budget_level=overhead.level,
            overhead_watched=overhead.watched,
            overhead_p50_ms=overhead.p50_ms,
            overhead_p99_ms=overhead.p99_ms,
            overhead_p99_ms_per_10kb=overhead.p99_ms_per_10kb,
            buffered_bytes=self._buffer.used_bytes,
            buffer_bytes=self._settings.buffer_bytes,
            records_sent=sent.records_sent,
            bytes_sent=sent.bytes_sent,
            batches_sent=sent.batches_sent,
            batches_failed=sent.batches_failed,
            connects=state.connects,
            troubles=state.troubles,
            spool_bytes_used=spool.folder_bytes,
            spool_bytes=self._settings.spool_bytes if self._settings.spool_dir else 0,
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
    Where gevent has taken the threads' place this imports the Kafka client, which takes 0.2 s, and
    the sender waits for the first trace: see `native`.
    Called again it replaces the options, after a flush of at most `exit_timeout_s`.

    A SIGTERM that nobody handles ends the process after such a flush too.

    With SPANFERRY_ENABLED=false in the environment nothing happens, nor with
    ENABLE_MLFLOW_TRACING=false unless SPANFERRY_ENABLED=true.

    Raises ConfigurationError, here and never later, where an option is missing or wrong.
    """
    off = switched_off(os.environ)
    if off:
        logger.info("tracing stays off: %s", off)
        return
    settings = load_settings(options, os.environ)
    with _switch:  # two at once: the second one ends what the first has begun
        _switch_off()
        client = _switch_on(settings)
        if not greenlets():
            client.start()


def enable_late() -> None:
    """As `enable()` for an app that has not asked for it: the sender waits for the first trace.

    So a process that traces nothing pays little, and an `enable()` that follows replaces it at once.
    Does nothing where spanferry is enabled. Raises ConfigurationError.
    """
    settings = load_settings({}, os.environ)
    with _switch:
        if _client is None:
            _switch_on(settings)


def _switch_on(settings: Settings) -> Client:
    client = Client(settings)
    _install(client)
    if settings.mlflow:
        bridge.switch_on(accelerate=settings.accelerate)
        bridge.autolog(settings.autolog)
    termination.flush_first(client.flush_before_termination)
    leaving.arrange(_at_exit)
    if greenlets():
        importlib.import_module("aiokafka")
    return client


def disable() -> None:
    """Flush for at most `exit_timeout_s`, then stop. Traced functions go on untraced."""
    with _switch:
        _switch_off()


def _switch_off() -> None:
    client = _client
    if client is not None:
        bridge.switch_off()
    _install(None)
    if client is not None:
        client.close(client.settings.exit_timeout_s)
        totals.follow(None)
        termination.restore()


def flush(timeout_s: float = _FLUSH_TIMEOUT_S) -> bool:
    """Wait until Kafka has acknowledged every trace that ended before, or the spool has taken it while
    Kafka was away. Not for the request path.

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
    if client is not None:
        totals.follow(client.stats)  # first: what is installed counts redaction anew
    _client = client
    outlet.install(client)


_at_rest: "dict[int, Rest]" = {}
"""Senders that a thread which is forking keeps at rest."""


def _before_fork() -> None:
    client = _client
    rest = client.before_fork() if client is not None else None
    if rest is not None:
        _at_rest[threading.get_ident()] = rest


def _after_fork_in_parent() -> None:
    rest = _at_rest.pop(threading.get_ident(), None)
    if rest is not None:
        rest.begin()


def _after_fork() -> None:
    global _switch  # noqa: PLW0603  it may have been held by a thread that is not here
    _switch = threading.Lock()
    _at_rest.clear()
    if _client is not None:
        _client.after_fork()
        leaving.arrange(_at_exit)


def _at_exit() -> None:
    client = _client
    if client is not None:
        _install(None)
        opening.expect_no_traces()
        bridge.hand_over_what_has_ended()
        with contextlib.suppress(KeyboardInterrupt):  # the process ends already
            client.close(client.settings.exit_timeout_s)
        termination.restore()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork
)
atexit.register(_at_exit)
