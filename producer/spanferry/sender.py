"""The sender: one thread with its own event loop and Kafka producer.

It takes parcels from the buffer, stages them as records by partition, and sends one prebuilt batch
a partition at a time. Work is cut into small slices with the loop in between, because what this
thread computes in Python is time that the app's threads wait for the interpreter.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from msgspec import Struct

from spanferry import budget
from spanferry.buffer import Buffer
from spanferry.dispatch import Dispatcher
from spanferry.log import logger, say_hourly
from spanferry.loop import Rest, SenderLoop
from spanferry.metrics import totals
from spanferry.native import NativeThread, new_thread
from spanferry.process import PROCESS, read_clock
from spanferry.sessions import SenderState, Sessions
from spanferry.settings import Settings

__all__ = ["Sender", "SenderState"]

_CLOCK_S: Final = 0.5
_OVERFLOW_S: Final = 0.1
"""Longest between two looks at what the spool should take before the buffer is full."""
_AWAY_S: Final = 1.0
"""For so long Kafka may be away before all that waits goes to the spool."""
_LOOK_S: Final = 0.2
"""Between two looks at how much time a flush is to leave over."""
_ANSWER_S: Final = 0.2
"""Of the time for the disk: the sender may be waiting for it when nothing more is to be written."""

_OF_THE_MAIN_THREAD: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class _Flush(Struct):
    """Somebody waits until all parcels that were put before are acknowledged."""

    serial: int
    done: concurrent.futures.Future[bool]


class _PutAway(Struct):
    """Somebody waits until the spool has taken all that waits, or that moment has come."""

    until_s: float
    done: concurrent.futures.Future[None]


class Sender:
    """Owns the thread. `start`, `flush` and `stop` are called from other threads."""

    def __init__(self, settings: Settings, buffer: Buffer) -> None:
        self._settings = settings
        self._buffer = buffer
        self._thread: threading.Thread | NativeThread | None = None
        self._loop: SenderLoop | None = None
        self._wake: asyncio.Event | None = None
        self._interrupt: asyncio.Event | None = None
        self.stopping = False
        """Whether no other session is to follow."""
        self._starting = threading.Lock()
        self._flushes: list[_Flush] = []
        self._put_away: list[_PutAway] = []
        self._rests = False
        self.rest = Rest()
        self.dispatcher = Dispatcher(settings, buffer, producer_id=os.urandom(8))
        self._sessions = Sessions(settings, buffer, self.dispatcher, self, self.rest)
        self.state = self._sessions.state
        self.guard = budget.Guard(settings.budget_ms)

    def start(self) -> bool:
        """Start the thread unless it runs. Does not wait for Kafka.

        False where there are no more threads: the next trace tries it again.
        """
        if not self._starting.acquire(blocking=False):
            return True
        try:
            if self._thread is None and not self.stopping:
                thread = new_thread(self._run, "spanferry-sender")
                thread.start()
                self._thread = thread
                self._buffer.on_put = None
        except RuntimeError as error:
            say_hourly("sender-thread", "traces wait: the sender could not be started: %s", error)
            return False
        finally:
            self._starting.release()
        return True

    def flush(self, timeout_s: float, reserve_s: Callable[[], float] | None = None) -> bool:
        """Wait until what was put before is acknowledged. False where the time was not enough.

        `reserve_s` says ever again how much of the time is to be left over.
        """
        if self._buffer.used_bytes == 0:
            return True
        if not self.start():
            return False
        done: concurrent.futures.Future[bool] = concurrent.futures.Future()
        # Rather one too many than one too few: read before `taken`, and one may be neither in the
        # buffer any more nor in the ledger yet. Where nothing is left the number does not matter.
        waiting = len(self._buffer) + 1
        self._flushes.append(_Flush(self.dispatcher.ledger.taken + waiting, done))
        self._wake_up()
        return _wait(done, timeout_s, reserve_s)

    def put_away(self, timeout_s: float) -> bool:
        """Have the spool, if there is one, take all that waits. False where that took too long.

        Afterwards nothing is sent or put away, until `go_on` or `stop`.
        """
        if self.dispatcher.spooler is None:
            return False
        if not self.start():
            return False
        self._rests = True
        asked = _PutAway(time.monotonic() + timeout_s - _ANSWER_S, concurrent.futures.Future())
        self._put_away.append(asked)
        self._wake_up()
        try:
            asked.done.result(timeout_s)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return False
        return self._buffer.used_bytes == 0

    def go_on(self) -> None:
        """The process goes on after `put_away`."""
        if self._rests and self.dispatcher.spooler is not None:
            self._rests = False
            self.dispatcher.spooler.until_s = math.inf
            self._wake_up()

    def forget(self) -> None:
        """In a forked child: thread, sockets and files are the parent's."""
        if self.dispatcher.spooler is not None:
            self.dispatcher.spooler.spool.forget()

    def stop(self, timeout_s: float) -> None:
        """End the thread. What is not acknowledged by then stays counted as buffered."""
        self.stopping = True
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
        if self._interrupt is not None and (self.stopping or self._put_away):
            self._interrupt.set()

    def _run(self) -> None:
        # The kernel may hand a signal to any thread, while Python's handlers run in the main one: that
        # would sleep on in its system call.
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_MAIN_THREAD)
        self.rest.end()
        loop = SenderLoop(self.rest)
        self._loop = loop
        loop.set_exception_handler(_of_no_use_to_the_app)
        try:
            loop.run_until_complete(self._main())
        except Exception:  # noqa: BLE001  the thread's last words
            logger.exception("the sender stopped; traces stay in the buffer")
        finally:
            _close(loop)
            for flush in self._flushes:
                flush.done.cancel()
            for asked in self._put_away:
                asked.done.cancel()
            self.rest.begin()

    async def _main(self) -> None:
        """One session after another until stopped: whatever ends a session, another one follows."""
        self._wake = asyncio.Event()
        self._interrupt = asyncio.Event()
        self._interrupt_if_asked()
        beside = [
            asyncio.ensure_future(_follow_the_clock()),
            asyncio.ensure_future(budget.follow(self.guard, lambda: self._buffer.counts.traces)),
        ]
        spooler = self.dispatcher.spooler
        if spooler is not None:
            spooler.spool.open()
            beside.append(asyncio.ensure_future(self._follow_the_spool()))
        try:
            while not self.stopping:
                await _run_until(self._interrupt, self._sessions.run())
                await self._answer_put_away()
                while self._rests and not (self.stopping or self._put_away):
                    await self.pause(_OVERFLOW_S)
        finally:
            for task in beside:
                task.cancel()
            if spooler is not None:
                await spooler.write_names(self.dispatcher.producer_id)
                spooler.spool.close()
            await self._sessions.finish()

    async def _answer_put_away(self) -> None:
        waiting = self._put_away[:]
        if waiting:
            if self.dispatcher.spooler is not None:
                until_s = max(asked.until_s for asked in waiting)
                await self.dispatcher.spooler.put_away(self.dispatcher.producer_id, until_s)
            del self._put_away[: len(waiting)]
            for asked in waiting:
                if not asked.done.done():
                    asked.done.set_result(None)

    async def _follow_the_spool(self) -> None:
        """Have the spool take what memory should not hold, until cancelled."""
        while True:
            hopeless = self._sessions.away_s >= _AWAY_S
            try:
                await self.dispatcher.overflow(connected=self.state.connected, hopeless=hopeless)
            except Exception as error:  # noqa: BLE001  what a disk answers to may be anything
                say_hourly("spool-task", "nothing can be spooled now: %r", error)
            self.answer_flushes()  # without a connection nobody else does
            await asyncio.sleep(min(self.dispatcher.linger_s, _OVERFLOW_S))

    def answer_flushes(self) -> None:
        """Tell those who wait for what is settled now."""
        waiting: list[_Flush] = []
        while self._flushes:
            flush = self._flushes.pop()
            if self.dispatcher.settled_up_to(flush.serial):
                if not flush.done.done():
                    flush.done.set_result(True)
            else:
                waiting.append(flush)
        self._flushes.extend(waiting)

    async def pause(self, seconds: float, *, at_least_s: float = 0.002) -> None:
        """Sleep, unless somebody waits for a flush: then look again soon."""
        assert self._wake is not None
        if self._flushes:
            seconds = min(seconds, at_least_s)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()


def _wait(
    done: concurrent.futures.Future[bool], timeout_s: float, reserve_s: Callable[[], float] | None
) -> bool:
    """What comes of it within the time; False where nothing does."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        if reserve_s is not None:
            left_s = min(left_s - reserve_s(), _LOOK_S)
        try:
            return done.result(max(left_s, 0.0))
        except concurrent.futures.TimeoutError:
            if reserve_s is None or left_s < _LOOK_S:
                return False
        except concurrent.futures.CancelledError:
            return False


async def _run_until(interrupt: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Raises what the work raises."""
    working = asyncio.ensure_future(work)
    interrupted = asyncio.ensure_future(interrupt.wait())
    await asyncio.wait({working, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    interrupt.clear()
    for task in (working, interrupted):
        task.cancel()
    await asyncio.wait({working, interrupted})
    if not working.cancelled():
        working.result()


async def _follow_the_clock() -> None:
    """Look at the wall clock for the app's threads, and let metrics be copied, until cancelled."""
    PROCESS.clock_followed = True
    try:
        while True:
            read_clock()
            totals.tell()
            await asyncio.sleep(_CLOCK_S)
    finally:
        PROCESS.clock_followed = False


def _of_no_use_to_the_app(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    """What asyncio would report of sockets and tasks that aiokafka has left behind."""
    logger.debug("left behind: %s", context.get("message"))


def _close(loop: SenderLoop) -> None:
    """Cancel what is left and close, whatever state the tasks are in."""
    with contextlib.suppress(Exception):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))
        loop.run_until_complete(asyncio.sleep(0))  # sockets close one turn after their connections
    with contextlib.suppress(Exception):
        loop.close()
