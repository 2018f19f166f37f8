"""What a traced request pays, by the clocks of the thread that pays it."""

import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmarks.recorders import Away, Recorder

__all__ = ["Clocks", "Samples"]


class Samples(msgspec.Struct):
    """One entry a trace, in ns of the calling thread."""

    wall_ns: list[int] = []
    cpu_ns: list[int] = []
    queued_ns: list[int] = []
    """Of `wall_ns`: ready to run, while the kernel had no core for the thread. 0 where unknown."""

    def __iadd__(self, other: "Samples") -> Self:
        self.wall_ns += other.wall_ns
        self.cpu_ns += other.cpu_ns
        self.queued_ns += other.queued_ns
        return self


class Clocks:
    """Times recorder calls in the one thread that makes them; close it there."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._schedstat = os.open(path, os.O_RDONLY) if path.exists() else -1
        self.samples = Samples()
        self.aside_ns = 0
        """CPU that was not tracing: making payloads."""

    def call(self, pickled: bytes) -> None:
        """Make a payload and one trace of it."""
        record, payload = self._record, self._make(pickled)
        queued, cpu = self._queued(), time.thread_time_ns()
        wall = time.perf_counter_ns()
        record(payload)
        wall = time.perf_counter_ns() - wall
        cpu, queued = time.thread_time_ns() - cpu, self._queued() - queued
        self._add(wall, cpu, queued)

    async def call_async(self, pickled: bytes, wait: Away) -> None:
        """Make one trace of a coroutine; while it is away nothing counts."""
        payload, laps = self._make(pickled), _Laps(self._queued)

        async def away() -> None:
            laps.stop()
            await wait()
            laps.start()

        record: Callable[[Any, Away], Any] = self._record
        laps.start()
        await record(payload, away)
        laps.stop()
        self._add(laps.wall_ns, laps.cpu_ns, laps.queued_ns)

    def close(self) -> None:
        """Give the kernel's file back."""
        if self._schedstat >= 0:
            os.close(self._schedstat)

    def _make(self, pickled: bytes) -> Any:
        making = time.thread_time_ns()
        payload = pickle.loads(pickled)
        self.aside_ns += time.thread_time_ns() - making
        return payload

    def _add(self, wall: int, cpu: int, queued: int) -> None:
        self.samples.wall_ns.append(wall)
        self.samples.cpu_ns.append(cpu)
        self.samples.queued_ns.append(max(0, min(queued, wall - cpu)))

    def _queued(self) -> int:
        """Time on the run queue since the thread began; Linux keeps it."""
        if self._schedstat < 0:
            return 0
        return int(os.pread(self._schedstat, 80, 0).split()[1])


class _Laps:
    """The clocks of one trace that is interrupted by others."""

    def __init__(self, queued: Callable[[], int]) -> None:
        self._queued = queued
        self.wall_ns = self.cpu_ns = self.queued_ns = 0

    def start(self) -> None:
        self._queue, self._cpu = self._queued(), time.thread_time_ns()
        self._wall = time.perf_counter_ns()

    def stop(self) -> None:
        self.wall_ns += time.perf_counter_ns() - self._wall
        self.cpu_ns += time.thread_time_ns() - self._cpu
        self.queued_ns += self._queued() - self._queue
