"""What one traced request costs, counted instead of timed: `python -m benchmarks.instructions`.

    python -m benchmarks.instructions            the counts beside the recorded ones
    python -m benchmarks.instructions --record   ... which they become

Counted are the bytecode instructions that the interpreter executes and the calls that it makes into C,
for one trace of 5 spans and 10 KB: in the calling thread with spanferry's API, in the calling thread with
MLflow's API on spanferry; and on the sender's thread for eight such traces that share a batch, from
the buffer to the batch and its acknowledgement, without aiokafka's own sending. What the budget guard's
measuring takes is counted too: the same traces where they are watched, and on the sender's thread one look
of the guard's at the account of one. A count
has no noise, so that a few percent more are seen on any machine, however busy; a test compares it with
the recorded one.

Why bytecode: `perf stat -e instructions:u` needs counters that virtual machines and containers mostly do
not have; callgrind needs a Debian package, takes minutes to import MLflow, and counts what the C
library chooses for the processor. sys.settrace is in every Python and gives the same number in every run.
What it does not see is time spent inside C functions: where perf or callgrind count,
`python -m benchmarks.native_counts --against DIR` compares two checkouts by machine instructions. More
calls into C are seen, as is every line of Python that somebody adds to the path.

The numbers belong to a minor version of Python, whose compiler they come from, and those of MLflow's
API to a version of MLflow.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "GROUPS",
    "PATHS",
    "RECORDED",
    "SPANS",
    "Counts",
    "Recorded",
    "count",
    "count_here",
    "environment",
    "recorded",
]

RECORDED = Path(__file__).parent / "results" / "instructions.json"
GROUPS = (("spanferry", "watched"), ("bridge", "bridge-watched"), ("sender", "guard"))
"""Paths that one process counts."""
PATHS = tuple(path for group in GROUPS for path in group)
SPANS = 5
"""Of a trace."""
_WARM_UP = 50
_VISITS_MAX = 100
"""Of the event loop, until a batch is sent."""
_TIMES = 5
SHARING = 8
"""Traces in the sender's batch."""


class Counts(msgspec.Struct):
    """Of one trace; of eight on the sender's thread."""

    bytecode: int
    c_calls: int


class Recorded(msgspec.Struct):
    """The file."""

    ceilings: dict[str, dict[str, Counts]]
    """By `environment()`, then by path."""


def environment() -> str:
    """What the counts belong to."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"Python {python}, MLflow {importlib.metadata.version('mlflow')}"


def recorded() -> Recorded:
    """What the repository holds."""
    return msgspec.json.decode(RECORDED.read_bytes(), type=Recorded)


def count(*paths: str) -> dict[str, Counts]:
    """These paths, in a process of their own: what else is loaded or patched would count as well."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions", "--paths", *paths],
        cwd=Path(__file__).parents[1],
        env={k: v for k, v in os.environ.items() if not k.startswith(("SPANFERRY_", "MLFLOW_"))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"counting {', '.join(paths)} failed\n{done.stderr}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, Counts])


def count_here(path: str) -> Counts:
    """One path, in this process, which is good for little else then."""
    prepared = _path(path)
    for _ in range(_WARM_UP):
        prepared.prepare()
        prepared.call()
    gc.disable()  # finalisers and callbacks would run whenever it likes
    return Counts(
        bytecode=_least(prepared, _count_bytecode),
        c_calls=_least(prepared, _count_c_calls),
    )


def _least(path: "_Path", counted: Callable[[Callable[[], object]], int]) -> int:
    """Of a few: a trace that has to renew something is not the usual one."""
    found: list[int] = []
    for _ in range(_TIMES):
        path.prepare()
        found.append(counted(path.call))
    return min(found)


def _count_bytecode(call: Callable[[], object]) -> int:
    executed = 0

    def tracer(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal executed
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            executed += 1
        return tracer

    sys.settrace(tracer)
    try:
        call()
    finally:
        sys.settrace(None)
    return executed


def _count_c_calls(call: Callable[[], object]) -> int:
    made = 0

    def profiler(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal made
        made += event == "c_call"

    sys.setprofile(profiler)
    try:
        call()
    finally:
        sys.setprofile(None)
    return made


class _Path(NamedTuple):
    """What is not counted, and then what is."""

    prepare: Callable[[], None]
    call: Callable[[], object]


def _path(path: str) -> _Path:
    """What makes one trace, or sends some."""
    from benchmarks.payloads import make_payload
    from benchmarks.recorders import spans
    from spanferry import bridge, outlet
    from spanferry.buffer import new_buffer
    from spanferry.settings import Settings

    settings = Settings(bootstrap_servers="none.invalid:9092", experiment="counted")
    buffer = new_buffer(settings.buffer_bytes, settings.drop)

    class Outlet:
        put = buffer.put

        @property
        def settings(self) -> Settings:
            return settings

    payload = make_payload("chat", 10_000, seed=1)
    outlet.install(Outlet())
    if path.startswith("bridge"):
        import mlflow

        bridge.switch_on(accelerate=True)
        record = spans(mlflow.start_span)["with"]
    else:
        import spanferry

        record = spans(spanferry.start_span)["with"]
    if path == "sender":
        return _sending(settings, buffer, lambda: record(payload))
    if path == "guard":
        return _guarding()
    return _Path(_watch if path.endswith("watched") else lambda: None, lambda: record(payload))


def _repeat(path: str, traces: int) -> None:
    """For `native_counts`."""
    prepared = _path(path)
    for _ in range(traces):
        prepared.prepare()
        prepared.call()


def _watch() -> None:
    """As the guard leaves an account for the next trace."""
    from spanferry.process import PROCESS
    from spanferry.watching import Account

    PROCESS.watch, PROCESS.plain = Account(deque()), None


def _guarding() -> "_Path":
    """One look of the guard's that finds one account, its windows full of others."""
    from spanferry.budget import SAMPLES_MAX, Guard

    guard = Guard(1.0)

    def prepare(accounts: int = 1) -> None:
        for _ in range(accounts):
            account = guard.account()
            account.cost_ns = account.values_ns = 40_000
            account.done.append(account)

    prepare(SAMPLES_MAX)
    guard.look(0.0)
    return _Path(prepare, lambda: guard.look(1.0))


def _sending(settings: Any, buffer: Any, trace: Callable[[], None]) -> "_Path":
    """One turn of the sender over traces that share a batch, with a Kafka that takes it at once."""
    from aiokafka.producer.message_accumulator import BatchBuilder

    from spanferry.dispatch import Dispatcher

    class Producer:
        def create_batch(self) -> BatchBuilder:
            return BatchBuilder(1_000_000, 0)

        async def send_batch(
            self, batch: Any, topic: str, *, partition: int
        ) -> asyncio.Future[Any]:
            acknowledged = asyncio.get_running_loop().create_future()
            acknowledged.set_result(None)
            return acknowledged

    dispatcher = Dispatcher(settings, buffer, producer_id=b"producer")
    dispatcher.open(Producer(), [0])
    loop = asyncio.new_event_loop()

    async def turn() -> None:
        await dispatcher.turn()
        for _ in range(_VISITS_MAX):
            if not dispatcher.ledger:
                return
            await asyncio.sleep(0)
        raise RuntimeError("the sender did not send")

    def prepare() -> None:
        for _ in range(SHARING):
            trace()

    return _Path(prepare, lambda: loop.run_until_complete(turn()))


def main(arguments: list[str] | None = None) -> None:
    """Count; print, or record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="these are the ceilings from now on")
    parser.add_argument("--repeat", type=int, help="do one of them so often, for others to count")
    parser.add_argument("--paths", nargs="+", choices=PATHS, help="count these, here; print JSON")
    given = parser.parse_args(arguments)
    if given.paths and given.repeat:
        _repeat(given.paths[0], given.repeat)
        return
    if given.paths:
        counts = {path: count_here(path) for path in given.paths}
        print(msgspec.json.encode(counts).decode())
        return
    held = recorded() if RECORDED.exists() else Recorded({})
    before = held.ceilings.get(environment(), {})
    found = {path: one for group in GROUPS for path, one in count(*group).items()}
    for path, counts in found.items():
        print(f"{path}: {counts}; recorded {before.get(path)}")
    if given.record:
        held.ceilings[environment()] = found
        RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(held), indent=1) + b"\n")


if __name__ == "__main__":
    main()
