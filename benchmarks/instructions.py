"""What one traced request costs, counted instead of timed: `python -m benchmarks.instructions`.

    python -m benchmarks.instructions            the counts beside the recorded ones
    python -m benchmarks.instructions --record   ... which they become

Counted are the bytecode instructions that the interpreter executes and the calls that it makes into C,
for one trace of 5 spans and 10 KB: in the calling thread with spanferry's API, in the calling thread with
MLflow's API on spanferry; and on the sender's thread for eight such traces that share a batch, from
the buffer to the batch and its acknowledgement, without aiokafka's own sending. A count
has no noise, so that a few percent more are seen on any machine, however busy; a test compares it with
the recorded one.

Why bytecode: `perf stat -e instructions:u` needs counters that virtual machines and containers mostly do
not have; callgrind needs a Debian package, takes minutes to import MLflow, and counts what the C
library chooses for the processor. sys.settrace is in every Python and gives the same number in every run.
What it does not see is time spent inside C functions: a slower encoder is what `make bench` is for. More
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
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

__all__ = ["RECORDED", "Counts", "Recorded", "count", "count_here", "environment", "recorded"]

RECORDED = Path(__file__).parent / "results" / "instructions.json"
PATHS = ("spanferry", "bridge", "sender")
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


def count(path: str) -> Counts:
    """One path, in a process of its own: what else is loaded or patched would count as well."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions", "--path", path],
        cwd=Path(__file__).parents[1],
        env={k: v for k, v in os.environ.items() if not k.startswith(("SPANFERRY_", "MLFLOW_"))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"counting {path} failed\n{done.stderr}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Counts)


def count_here(path: str) -> Counts:
    """One path, in this process, which is good for nothing else then."""
    prepared = _path(path)
    for _ in range(_WARM_UP):
        prepared.prepare()
        prepared.call()
    gc.disable()  # finalisers and callbacks would run whenever it likes
    return Counts(
        bytecode=_least(prepared, _count_bytecode),
        c_calls=_least(prepared, _count_c_calls),
    )


def _least(path: "_Path", counted: Callable[[Callable[[], None]], int]) -> int:
    """Of a few: a trace that has to renew something is not the usual one."""
    found: list[int] = []
    for _ in range(_TIMES):
        path.prepare()
        found.append(counted(path.call))
    return min(found)


def _count_bytecode(call: Callable[[], None]) -> int:
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


def _count_c_calls(call: Callable[[], None]) -> int:
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
    call: Callable[[], None]


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
    if path == "bridge":
        import mlflow

        bridge.switch_on(accelerate=True)
        record = spans(mlflow.start_span)["with"]
    else:
        import spanferry

        record = spans(spanferry.start_span)["with"]
    if path != "sender":
        return _Path(lambda: None, lambda: record(payload))
    return _sending(settings, buffer, lambda: record(payload))


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
    parser.add_argument("--path", choices=PATHS, help="count this one, here, and print JSON")
    given = parser.parse_args(arguments)
    if given.path:
        print(msgspec.json.encode(count_here(given.path)).decode())
        return
    held = recorded() if RECORDED.exists() else Recorded({})
    before = held.ceilings.get(environment(), {})
    found = {path: count(path) for path in PATHS}
    for path, counts in found.items():
        print(f"{path}: {counts}; recorded {before.get(path)}")
    if given.record:
        held.ceilings[environment()] = found
        RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(held), indent=1) + b"\n")


if __name__ == "__main__":
    main()
