"""One SDK in one process, told over standard input what to do: `python -m benchmarks.subject otel`.

The parent sends a JSON line and reads a JSON line; between two lines the process does nothing.
Standard output is kept for the answers, whatever an SDK prints goes to standard error.
"""

import asyncio
import gc
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.sdks import SDKS, Addresses, Recorder, Sdk

__all__ = ["Block", "BlockResult", "Start", "Started"]

TICK_S = 0.002
_QUIET_WINDOW_S = 0.05
_QUIET_CPU_NS = 1_000_000
_QUIET_WAIT_S = 3.0


class Start(msgspec.Struct, tag="start"):
    """Set the SDK up."""

    addresses: Addresses


class Started(msgspec.Struct):
    """The styles that this SDK has."""

    styles: list[str]


class Block(msgspec.Struct, tag="block"):
    """Make traces, time each, then flush and wait until the process is quiet.

    Without `rate` one trace follows the other; with it, they start `rate` times a second, and
    late ones at once. The block ends after `count` traces, or after `seconds` if that is later and
    set, but never later than `count_max`. `mode` "loop" is paced, on an asyncio loop whose lag is
    taken by a second task every TICK_S.
    """

    payloads: str
    """Path of a pickled list of pickled TracePayloads, used in turn. Each is unpickled just before
    its trace, outside the timing: an app's values are new, and it has only now made them."""
    mode: str
    style: str
    warm_up: int
    count: int
    count_max: int
    seconds: float = 0.0
    rate: float = 0.0
    flush_s: float = 60.0


class BlockResult(msgspec.Struct):
    """What happened. Times in ns; `wall_ns` and `cpu_ns` are the calling thread's, one per trace."""

    wall_ns: list[int]
    cpu_ns: list[int]
    queued_ns: list[int]
    """Of `wall_ns`: ready to run, while the kernel had no core for the thread. 0 where unknown."""
    lag_ns: list[int]
    made: int
    """Traces, warm-up included."""
    elapsed_s: float
    """From the first timed trace to the last."""
    process_cpu_ns: int
    """All threads, from the first timed trace until flushed, less the making of payloads."""
    flush_s: float
    flushed: bool
    quiet: bool
    """The process came to rest within a few seconds after its flush."""
    rss_mb: float
    counters: dict[str, object]


class _Clocks:
    """Times one recorder call after the other, in the thread that makes it."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._schedstat = os.open(path, os.O_RDONLY) if path.exists() else -1
        self.wall_ns: list[int] = []
        self.cpu_ns: list[int] = []
        self.queued_ns: list[int] = []
        self.making_ns = 0

    def call(self, pickled: bytes) -> None:
        record = self._record
        making = time.thread_time_ns()
        payload = pickle.loads(pickled)
        self.making_ns += time.thread_time_ns() - making
        cpu, queued = time.thread_time_ns(), self._queued()
        wall = time.perf_counter_ns()
        record(payload)
        wall = time.perf_counter_ns() - wall
        queued, cpu = self._queued() - queued, time.thread_time_ns() - cpu
        self.wall_ns.append(wall)
        self.cpu_ns.append(cpu)
        self.queued_ns.append(max(0, min(queued, wall - cpu)))

    def close(self) -> None:
        if self._schedstat >= 0:
            os.close(self._schedstat)

    def _queued(self) -> int:
        """Time on the run queue since the thread began; Linux keeps it."""
        if self._schedstat < 0:
            return 0
        return int(os.pread(self._schedstat, 80, 0).split()[1])


def run_block(sdk: Sdk, recorders: dict[str, Recorder], block: Block) -> BlockResult:
    """Run one block to its end; the process is idle afterwards."""
    payloads: list[bytes] = pickle.loads(Path(block.payloads).read_bytes())
    record = recorders[block.style]
    for number in range(block.warm_up):
        record(pickle.loads(payloads[number % len(payloads)]))
    flushed = sdk.flush(block.flush_s)
    gc.collect()
    clocks, lag_ns = _Clocks(record), []
    cpu, start = time.process_time_ns(), time.perf_counter()
    if block.mode == "loop":
        lag_ns = asyncio.run(_loop(block, payloads, clocks.call))
    else:
        _thread(block, payloads, clocks.call)
    elapsed_s, start = time.perf_counter() - start, time.perf_counter()
    flushed = sdk.flush(block.flush_s) and flushed
    clocks.close()
    flush_s, cpu = time.perf_counter() - start, time.process_time_ns() - cpu
    return BlockResult(
        wall_ns=clocks.wall_ns,
        cpu_ns=clocks.cpu_ns,
        queued_ns=clocks.queued_ns,
        lag_ns=lag_ns,
        made=block.warm_up + len(clocks.wall_ns),
        elapsed_s=elapsed_s,
        process_cpu_ns=cpu - clocks.making_ns,
        flush_s=flush_s,
        flushed=flushed,
        quiet=_wait_until_quiet(),
        rss_mb=_rss_mb(),
        counters=sdk.counters(),
    )


def _thread(block: Block, payloads: list[bytes], call: Callable[[bytes], None]) -> None:
    start = time.perf_counter()
    for number in range(block.count_max):
        if block.rate:
            pause = start + number / block.rate - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
        if number >= block.count and time.perf_counter() - start >= block.seconds:
            return
        call(payloads[number % len(payloads)])


async def _loop(block: Block, payloads: list[bytes], call: Callable[[bytes], None]) -> list[int]:
    """The paced block on a loop; returns how late the loop was at each tick, in ns."""
    lag_ns: list[int] = []
    running = True

    async def tick() -> None:
        while running:
            due = time.perf_counter_ns() + int(TICK_S * 1e9)
            await asyncio.sleep(TICK_S)
            lag_ns.append(time.perf_counter_ns() - due)

    ticking = asyncio.ensure_future(tick())
    start = time.perf_counter()
    for number in range(block.count):
        await asyncio.sleep(max(0.0, start + number / block.rate - time.perf_counter()))
        call(payloads[number % len(payloads)])
    running = False
    await ticking
    return lag_ns


def _wait_until_quiet() -> bool:
    """Whether the process used less than 2 % of a core for a while, waiting a few seconds for it."""
    end = time.perf_counter() + _QUIET_WAIT_S
    while time.perf_counter() < end:
        cpu = time.process_time_ns()
        time.sleep(_QUIET_WINDOW_S)
        if time.process_time_ns() - cpu < _QUIET_CPU_NS:
            return True
    return False


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sdk = SDKS[name]()
    recorders: dict[str, Recorder] = {}
    decoder = msgspec.json.Decoder(Start | Block)
    for line in sys.stdin.buffer:
        command = decoder.decode(line)
        if isinstance(command, Start):
            recorders = sdk.start(command.addresses)
            answer: object = Started(styles=list(recorders))
        else:
            answer = run_block(sdk, recorders, command)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
