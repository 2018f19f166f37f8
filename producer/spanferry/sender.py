"""The sender: one thread with its own event loop and Kafka producer.

It takes parcels from the buffer, stages them as records by partition, and sends one prebuilt batch
a partition at a time. Work is cut into small slices with the loop in between, because what this
thread computes in Python is time that the app's threads wait for the interpreter.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from typing import Any, Final

from msgspec import Struct

from spanferry.buffer import Buffer
from spanferry.dispatch import Dispatcher
from spanferry.log import logger, quiet, say_once
from spanferry.loop import Rest, SenderLoop
from spanferry.native import NativeThread, new_thread
from spanferry.process import PROCESS, read_clock
from spanferry.settings import Settings

__all__ = ["Sender", "SenderState"]

_BACKOFF_FIRST_S: Final = 0.2
_BACKOFF_MAX_S: Final = 5.0
_REMIND_S: Final = 60.0
_METADATA_S: Final = 3.0
_STOP_S: Final = 1.0
_CLOCK_S: Final = 0.5
_AWAY_S: Final = 1.0
"""For so long Kafka may be away before all that waits goes to the spool."""


_OF_THE_MAIN_THREAD: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class SenderState(Struct):
    """What the sender says of itself."""

    connected: bool = False
    connects: int = 0
    last_error: str | None = None


class _Flush(Struct):
    """Somebody waits until all parcels that were put before are acknowledged."""

    serial: int
    done: concurrent.futures.Future[bool]


class Sender:
    """Owns the thread. `start`, `flush` and `stop` are called from other threads."""

    def __init__(self, settings: Settings, buffer: Buffer) -> None:
        self._settings = settings
        self._buffer = buffer
        self._thread: threading.Thread | NativeThread | None = None
        self._loop: SenderLoop | None = None
        self._wake: asyncio.Event | None = None
        self._interrupt: asyncio.Event | None = None
        self._stopping = False
        self._starting = threading.Lock()
        self._flushes: list[_Flush] = []
        self._put_away: list[concurrent.futures.Future[None]] = []
        self._retired: set[asyncio.Future[None]] = set()
        self._away_since_s = 0.0
        self.rest = Rest()
        self.state = SenderState()
        self.dispatcher = Dispatcher(settings, buffer, producer_id=os.urandom(8))

    def start(self) -> None:
        """Start the thread unless it runs. Does not wait for Kafka."""
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None and not self._stopping:
                thread = new_thread(self._run, "spanferry-sender")
                thread.start()
                self._thread = thread
                self._buffer.on_put = None
        finally:
            self._starting.release()

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was put before is acknowledged. False where the time was not enough."""
        if self._thread is None and len(self._buffer) == 0:
            return True
        self.start()
        done: concurrent.futures.Future[bool] = concurrent.futures.Future()
        # Rather one too many than one too few: read before `taken`, and one may be neither in the
        # buffer any more nor in the ledger yet. Where nothing is left the number does not matter.
        waiting = len(self._buffer) + 1
        self._flushes.append(_Flush(self.dispatcher.ledger.taken + waiting, done))
        self._wake_up()
        try:
            return done.result(timeout_s)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return False

    def put_away(self, timeout_s: float) -> bool:
        """Have the spool, if there is one, take all that waits. False where that took too long."""
        if self.dispatcher.spooler is None:
            return False
        self.start()
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._put_away.append(done)
        self._wake_up()
        try:
            done.result(timeout_s)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return False
        return True

    def forget(self) -> None:
        """In a forked child: thread, sockets and files are the parent's."""
        if self.dispatcher.spooler is not None:
            self.dispatcher.spooler.spool.forget()

    def stop(self, timeout_s: float) -> None:
        """End the thread. What is not acknowledged by then stays counted as buffered."""
        self._stopping = True
        self._wake_up()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _wake_up(self) -> None:
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to wake
                loop.call_soon_threadsafe(wake.set)
                loop.call_soon_threadsafe(self._interrupt_if_asked)

    def _interrupt_if_asked(self) -> None:
        if self._interrupt is not None and (self._stopping or self._put_away):
            self._interrupt.set()

    def _run(self) -> None:
        # The kernel may hand a signal to any thread, while Python's handlers run in the main one: that
        # would sleep on in its system call.
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_MAIN_THREAD)
        self.rest.end()
        loop = SenderLoop(self.rest)
        self._loop = loop
        try:
            loop.run_until_complete(self._main())
        except Exception:  # noqa: BLE001  the thread's last words
            logger.exception("the sender stopped; traces stay in the buffer")
        finally:
            _close(loop)
            for flush in self._flushes:
                flush.done.cancel()
            for done in self._put_away:
                done.cancel()
            self.rest.begin()

    async def _main(self) -> None:
        """One session after another until stopped: whatever ends a session, another one follows."""
        self._wake = asyncio.Event()
        self._interrupt = asyncio.Event()
        self._interrupt_if_asked()
        self._away_since_s = time.monotonic()
        beside = [asyncio.ensure_future(_follow_the_clock())]
        spooler = self.dispatcher.spooler
        if spooler is not None:
            spooler.spool.open()
            beside.append(asyncio.ensure_future(self._follow_the_spool()))
        try:
            while not self._stopping:
                await self._sessions_until_interrupted()
                await self._answer_put_away()
        finally:
            for task in beside:
                task.cancel()
            if spooler is not None:
                spooler.spool.close()
            if self._retired:
                await asyncio.wait(self._retired, timeout=_STOP_S)

    async def _sessions_until_interrupted(self) -> None:
        assert self._interrupt is not None
        sessions = asyncio.ensure_future(self._sessions())
        interrupted = asyncio.ensure_future(self._interrupt.wait())
        await asyncio.wait({sessions, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        self._interrupt.clear()
        for task in (sessions, interrupted):
            task.cancel()
        await asyncio.wait({sessions, interrupted})
        if not sessions.cancelled():
            sessions.result()

    async def _answer_put_away(self) -> None:
        waiting = self._put_away[:]
        if waiting:
            await self.dispatcher.put_away()
            del self._put_away[: len(waiting)]
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    async def _follow_the_spool(self) -> None:
        """Have the spool take what memory should not hold, until cancelled."""
        while True:
            hopeless = time.monotonic() - self._away_since_s >= _AWAY_S
            await self.dispatcher.overflow(connected=self.state.connected, hopeless=hopeless)
            await asyncio.sleep(self._settings.linger_s)

    async def _sessions(self) -> None:
        self.dispatcher.stager.collect_environment()
        backoff_s = _BACKOFF_FIRST_S
        reminded_at = -_REMIND_S
        while not self._stopping:
            connects = self.state.connects
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001  the sender outlives whatever Kafka answers
                self.state.last_error = f"{type(error).__name__}: {error}"
                if time.monotonic() - reminded_at >= _REMIND_S:
                    reminded_at = time.monotonic()
                    logger.warning("%s", self._trouble())
            if self.state.connects > connects:
                backoff_s = _BACKOFF_FIRST_S
            if not self._stopping:
                await self._pause(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    def _trouble(self) -> str:
        folder = self._settings.spool_dir
        return (
            f"traces {f'go to the spool {folder}' if folder else 'wait'}: Kafka at "
            f"{self._settings.bootstrap_servers} (topic {self._settings.topic}): "
            f"{self.state.last_error}. {self._buffer.used_bytes} of {self._settings.buffer_bytes} "
            "bytes are buffered; retrying. `spanferry doctor` says more."
        )

    async def _session(self) -> None:
        """The life of one Kafka producer. Raises what ended it."""
        self.rest.load("aiokafka")
        producer = _make_producer(self._settings)
        try:
            await producer.start()
            partitions = await self._partitions(producer)
            self.dispatcher.open(producer, partitions)
            self.state.connected = True
            self.state.connects += 1
            say_once(
                "connected", "sending traces to %s", self._settings.bootstrap_servers, level=20
            )
            while not self._stopping:
                await self.dispatcher.turn()
                self._answer_flushes()
                await self._pause(self._settings.linger_s)
        finally:
            if self.state.connected:
                self.state.connected = False
                self._away_since_s = time.monotonic()
            await self.dispatcher.close()
            self._retire(producer)

    def _retire(self, producer: Any) -> None:
        """End a producer beside what comes next: a dead broker lets it wait."""
        ending = asyncio.ensure_future(_ended(producer))
        self._retired.add(ending)
        ending.add_done_callback(self._retired.discard)

    async def _partitions(self, producer: Any) -> list[int]:
        """The topic's partitions. aiokafka itself would ask for a missing topic for 15 s."""
        topic = self._settings.topic
        found: set[int] | None = None
        with contextlib.suppress(asyncio.TimeoutError):
            found = await asyncio.wait_for(producer.partitions_for(topic), _METADATA_S)
        if not found:
            raise LookupError(f"no topic {topic!r}: create it with `spanferry topics create`")
        return sorted(found)

    def _answer_flushes(self) -> None:
        waiting: list[_Flush] = []
        while self._flushes:
            flush = self._flushes.pop()
            if self.dispatcher.settled_up_to(flush.serial):
                if not flush.done.done():
                    flush.done.set_result(True)
            else:
                waiting.append(flush)
        self._flushes.extend(waiting)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless somebody waits for a flush: then look again soon."""
        assert self._wake is not None
        if self._flushes:
            seconds = min(seconds, 0.002)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()


async def _follow_the_clock() -> None:
    """Look at the wall clock for the app's threads, until cancelled."""
    PROCESS.clock_followed = True
    try:
        while True:
            read_clock()
            await asyncio.sleep(_CLOCK_S)
    finally:
        PROCESS.clock_followed = False


async def _ended(producer: Any) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(producer.stop(), _STOP_S)


def _make_producer(settings: Settings) -> Any:
    """An idempotent producer; batches are built by us, so its own batching hardly matters."""
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415  it is loaded by now

    quiet("aiokafka", threading.get_ident())
    return AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers,
        client_id=settings.client_id,
        acks="all",
        enable_idempotence=True,
        compression_type=None if settings.compression == "none" else settings.compression,
        max_batch_size=settings.batch_bytes,
        max_request_size=max(settings.batch_bytes, settings.record_bytes_max) + 65_536,
        request_timeout_ms=15_000,
        metadata_max_age_ms=60_000,
    )


def _close(loop: SenderLoop) -> None:
    """Cancel what is left and close, whatever state the tasks are in."""
    with contextlib.suppress(Exception):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))
    with contextlib.suppress(Exception):
        loop.close()
