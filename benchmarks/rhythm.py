"""When traces start: one after the other or at a rate, on a thread, on several, or as tasks."""

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator

import msgspec

from benchmarks.clocks import Clocks, Samples
from benchmarks.recorders import Recorder

__all__ = ["AWAY_S", "Rhythm", "Taken", "beat", "beat_encodes"]

TICK_S = 0.002
AWAY_S = 0.01
"""How long a traced coroutine is away, each time."""


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """Of one block.

    Without `rate` one trace follows the other; with it, they start `rate` times a second over all
    threads, and late ones at once. The block ends after `count` traces, or after `seconds` if that
    is later and set, but never later than `count_max`; on several threads these are shared out.
    `mode` "async" runs paced traces as tasks of one event loop, whose lag a task of its own takes
    every TICK_S.
    """

    mode: str
    count: int
    count_max: int
    seconds: float = 0.0
    rate: float = 0.0
    threads: int = 1


class Taken(msgspec.Struct):
    """What the clocks of a block have shown."""

    samples: Samples
    lag_ns: list[int]
    aside_ns: int


def beat(rhythm: Rhythm, payloads: list[bytes], record: Recorder) -> Taken:
    """Make the traces of a block."""
    if rhythm.mode == "async":
        return asyncio.run(_tasks(rhythm, payloads, record))
    if rhythm.threads == 1:
        return _thread(rhythm, payloads, record, 0)
    return _threads(rhythm, payloads, record)


def _thread(rhythm: Rhythm, payloads: list[bytes], record: Recorder, offset: int) -> Taken:
    clocks = Clocks(record)
    start = time.perf_counter()
    for number in range(rhythm.count_max):
        _sleep_until(start + number / rhythm.rate if rhythm.rate else start)
        if number >= rhythm.count and time.perf_counter() - start >= rhythm.seconds:
            break
        clocks.call(payloads[(offset + number) % len(payloads)])
    clocks.close()
    return Taken(clocks.samples, [], clocks.aside_ns)


def beat_encodes(rhythm: Rhythm, payloads: list[bytes]) -> list[int]:
    """In the same rhythm nothing but one msgspec encode of each payload, as new as a trace's; ns."""
    encode = msgspec.json.Encoder().encode
    taken: list[int] = []
    start = time.perf_counter()
    for number in range(rhythm.count):
        _sleep_until(start + number / rhythm.rate if rhythm.rate else start)
        payload = pickle.loads(payloads[number % len(payloads)])
        wall = time.perf_counter_ns()
        encoded = encode(payload)
        taken.append(time.perf_counter_ns() - wall)
        del encoded, payload
    return taken


def _sleep_until(when: float) -> None:
    pause = when - time.perf_counter()
    if pause > 0:
        time.sleep(pause)


def _threads(rhythm: Rhythm, payloads: list[bytes], record: Recorder) -> Taken:
    """The same in several threads at once, each with its share of the traces and of the rate."""
    share = msgspec.structs.replace(
        rhythm,
        count=-(-rhythm.count // rhythm.threads),
        count_max=-(-rhythm.count_max // rhythm.threads),
        rate=rhythm.rate / rhythm.threads,
        threads=1,
    )
    taken: list[Taken] = []
    gate = threading.Barrier(rhythm.threads)

    def run(number: int) -> None:
        gate.wait()
        if share.rate:
            time.sleep(number / rhythm.rate)
        taken.append(_thread(share, payloads, record, number * share.count))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(rhythm.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Taken(Samples(), [], 0)
    for one in taken:
        total.samples += one.samples
        total.aside_ns += one.aside_ns
    return total


async def _tasks(rhythm: Rhythm, payloads: list[bytes], record: Recorder) -> Taken:
    """Each trace a task that is away several times, so that a few are open at any time."""
    clocks, lag_ns = Clocks(record), list[int]()
    ticking = asyncio.ensure_future(_tick(lag_ns))
    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, pickled in _numbered(payloads, rhythm.count):
            await asyncio.sleep(max(0.0, start + number / rhythm.rate - time.perf_counter()))
            tasks.create_task(clocks.call_async(pickled, _away))
    ticking.cancel()
    clocks.close()
    return Taken(clocks.samples, lag_ns, clocks.aside_ns)


async def _away() -> None:
    await asyncio.sleep(AWAY_S)


async def _tick(lag_ns: list[int]) -> None:
    """How late the loop gets, again and again until cancelled."""
    while True:
        due = time.perf_counter_ns() + int(TICK_S * 1e9)
        await asyncio.sleep(TICK_S)
        lag_ns.append(time.perf_counter_ns() - due)


def _numbered(payloads: list[bytes], count: int) -> Iterator[tuple[int, bytes]]:
    for number in range(count):
        yield number, payloads[number % len(payloads)]
