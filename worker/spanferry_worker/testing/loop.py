# An event loop is made of asyncio's own parts: `Handle._run` and the running loop.
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001
"""An event loop in virtual time that several simulated processes share.

Nothing ever waits: when nobody can go on, the clock moves to the next timer. Who goes on is drawn from
a seed where several processes could; within a process callbacks keep asyncio's order. Processes are told
apart by their context, which tasks and timers inherit, so that one can stand still or die between any two
steps of it while the others go on.
"""

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["SimulatedLoop", "SimulatedProcess", "StepsExhaustedError"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_BURIAL_STEPS_MAX = 10_000
_BURIAL_ROUNDS = 5


class StepsExhaustedError(RuntimeError):
    """More steps than a run may take: something goes round without time passing."""


class SimulatedProcess:
    """What dies and stands still as one. `run` starts a task in it."""

    def __init__(self, loop: "_VirtualTime", name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_process.set, self)

    def context(self) -> Context:
        """For callbacks that belong to this process."""
        return self._context.copy()

    def run(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Start a task of this process."""
        return self._loop.create_task(work, context=self.context())


_process: ContextVar[SimulatedProcess] = ContextVar("simulated_process")


class _VirtualTime(asyncio.AbstractEventLoop):
    """What tasks and futures ask of their loop."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, SimulatedProcess, asyncio.TimerHandle]] = []
        self._numbers = 0
        self.world = SimulatedProcess(self, "world")
        """For all that belongs to no process."""
        self.errors: list[dict[str, Any]] = []
        """What asyncio would have logged: exceptions of callbacks and of tasks nobody awaited."""

    def time(self) -> float:
        """Seconds since the loop was made, in its own time."""
        return self._now

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """See AbstractEventLoop."""
        if context is None:
            context = contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        context.get(_process, self.world).ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See AbstractEventLoop."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See AbstractEventLoop. A process that stands still hears its timers when it goes on."""
        if context is None:
            context = contextvars.copy_context()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._numbers += 1
        process = context.get(_process, self.world)
        heapq.heappush(self._timers, (when, self._numbers, process, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Left in the heap until its time."""

    def create_future(self) -> asyncio.Future[Any]:
        """See AbstractEventLoop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        """See AbstractEventLoop. The task belongs to the process of its context."""
        if context is None:
            context = contextvars.copy_context()
        task: asyncio.Task[Any] = asyncio.Task(
            coro, loop=self, name=name, context=context, **options
        )
        context.get(_process, self.world).tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep it for whoever has made the loop."""
        self.errors.append(context)

    def is_running(self) -> bool:
        """See AbstractEventLoop."""
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        """See AbstractEventLoop."""
        return False

    def get_debug(self) -> bool:
        """See AbstractEventLoop."""
        return False


class SimulatedLoop(_VirtualTime):
    """Only what pure asyncio code needs: no sockets, threads, signals or processes."""

    def __init__(self, chance: Random, *, steps_max: int = 1_000_000) -> None:
        super().__init__()
        self._chance = chance
        self._steps_left = steps_max
        self._processes = [self.world]
        self._dead: list[SimulatedProcess] = []

    def process(self, name: str) -> SimulatedProcess:
        """A new process."""
        process = SimulatedProcess(self, name)
        self._processes.append(process)
        return process

    def kill(self, process: SimulatedProcess) -> None:
        """As kill -9, for the others: it takes no step any more, and its timers never ring.

        Python cannot drop coroutines without running their `finally`; so they are cancelled, off the
        record, before anybody's next step. What the process holds of the outside must be cut before, so
        that nobody sees it.
        """
        if process.alive:
            process.alive = False
            self._processes.remove(process)
            self._dead.append(process)

    def _bury(self, process: SimulatedProcess) -> None:
        for _ in range(_BURIAL_ROUNDS):
            left = [task for task in process.tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            for _ in range(_BURIAL_STEPS_MAX):
                if not process.ready:
                    break
                handle = process.ready.popleft()
                if not handle.cancelled():
                    handle._run()
        raise StepsExhaustedError(f"{process.name} cannot be buried")

    def run_until_complete(self, future: Any) -> Any:
        """Run all processes until this one is done; its result."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            main: asyncio.Future[Any] = (
                future if asyncio.isfuture(future) else self.world.run(future)
            )
            while not main.done():
                self._step()
            return main.result()
        finally:
            while self._dead:
                self._bury(self._dead.pop())
            events._set_running_loop(before)

    def _step(self) -> None:
        while self._dead:
            self._bury(self._dead.pop())
        able = [one for one in self._processes if one.ready and not one.frozen]
        if not able:
            self._move_clock()
            return
        self._steps_left -= 1
        if self._steps_left == 0:
            raise StepsExhaustedError("the run takes more steps than it may")
        chosen = able[0] if len(able) == 1 else able[int(self._chance.random() * len(able))]
        handle = chosen.ready.popleft()
        if not handle.cancelled():
            handle._run()

    def _move_clock(self) -> None:
        """To the next timer that counts, and let all of that moment ring."""
        timers = self._timers
        while timers and (timers[0][3].cancelled() or not timers[0][2].alive):
            heapq.heappop(timers)
        if not timers:
            raise StepsExhaustedError("everybody waits for ever")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            _, _, process, timer = heapq.heappop(timers)
            if process.alive and not timer.cancelled():
                process.ready.append(timer)
