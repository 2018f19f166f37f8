"""One SDK in one process, told over standard input what to do: `python -m benchmarks.subject otel`.

The parent sends a JSON line and reads a JSON line; between two lines the process does nothing.
Standard output is kept for the answers, whatever an SDK prints goes to standard error.
"""

import asyncio
import gc
import os
import pickle
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.clocks import Samples
from benchmarks.recorders import Recorder
from benchmarks.rhythm import Rhythm, beat, beat_encodes
from benchmarks.sdk import Addresses, Sdk
from benchmarks.sdks import SDKS

__all__ = ["Block", "BlockResult", "Start", "Started"]

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
    """Make traces, time each, then flush and wait until the process is quiet."""

    payloads: str
    """Path of a pickled list of pickled payloads, used in turn. Each is unpickled just before its
    trace, outside the timing: an app's values are new, and it has only now made them."""
    style: str
    warm_up: int
    rhythm: Rhythm
    encode: bool = False
    """Afterwards, with nothing left to send, encode the payloads in the same rhythm."""
    flush_s: float = 60.0


class BlockResult(msgspec.Struct):
    """What happened."""

    samples: Samples
    encode_ns: list[int]
    """One msgspec encode of each payload, where it was asked for."""
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


def run_block(sdk: Sdk, recorders: dict[str, Recorder], block: Block) -> BlockResult:
    """Run one block to its end; the process is idle afterwards."""
    payloads: list[bytes] = pickle.loads(Path(block.payloads).read_bytes())
    record = recorders[block.style]
    _warm_up(block, payloads, record)
    flushed = sdk.flush(block.flush_s)
    gc.collect()
    cpu, start = time.process_time_ns(), time.perf_counter()
    taken = beat(block.rhythm, payloads, record)
    elapsed_s, start = time.perf_counter() - start, time.perf_counter()
    flushed = sdk.flush(block.flush_s) and flushed
    flush_s, cpu = time.perf_counter() - start, time.process_time_ns() - cpu
    encode_ns = beat_encodes(block.rhythm, payloads) if block.encode else []
    return BlockResult(
        samples=taken.samples,
        encode_ns=encode_ns,
        lag_ns=taken.lag_ns,
        made=block.warm_up + len(taken.samples.wall_ns),
        elapsed_s=elapsed_s,
        process_cpu_ns=cpu - taken.aside_ns,
        flush_s=flush_s,
        flushed=flushed,
        quiet=_wait_until_quiet(),
        rss_mb=_rss_mb(),
        counters=sdk.counters(),
    )


def _warm_up(block: Block, payloads: list[bytes], record: Recorder) -> None:
    async def nowhere() -> None: ...

    for number in range(block.warm_up):
        payload = pickle.loads(payloads[number % len(payloads)])
        if block.rhythm.mode == "async":
            asyncio.run(record(payload, nowhere))
        else:
            record(payload)


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
    """Answer commands until standard input ends."""
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
