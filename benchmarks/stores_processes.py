"""Several worker processes' sinks into one database: `spanferry worker --processes`, without Kafka.

Each is this module with the database's URI, told on stdin what to write, and when.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.store_traces import make_traces
from spanferry_worker.runtime.allocator import collect_rarely
from spanferry_worker.services.mlflow_sink import open_sink

__all__ = ["PROCESSES", "WriterProcesses"]

PROCESSES = 2
"""As many as there are cores."""
_ROOT = Path(__file__).parents[1]
_READY, _DONE = "ready", "done"


class Work(msgspec.Struct, frozen=True, array_like=True):
    """What one process is to write."""

    payload: str
    traces: int
    batch: int


class WriterProcesses:
    """Started and connected; ended by close()."""

    def __init__(self, uri: str) -> None:
        self._all = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stores_processes", uri],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        self._await(_READY)

    @property
    def pids(self) -> list[int]:
        """Of all of them."""
        return [one.pid for one in self._all]

    def prepared(self, payload: str, traces: int, batch: int) -> Callable[[], None]:
        """Have each make its share of so many traces; what is returned has all of them written."""
        share = Work(payload, traces // PROCESSES, batch)
        self._tell(msgspec.json.encode(share).decode())
        self._await(_READY)
        return self._write

    def close(self) -> None:
        """End them."""
        for one in self._all:
            one.communicate(timeout=60)

    def _write(self) -> None:
        self._tell("")
        self._await(_DONE)

    def _tell(self, line: str) -> None:
        for one in self._all:
            assert one.stdin
            one.stdin.write(f"{line}\n")
            one.stdin.flush()

    def _await(self, word: str) -> None:
        for one in self._all:
            assert one.stdout
            said = one.stdout.readline().strip()
            if said != word:
                raise RuntimeError(f"a writer process said {said!r} in place of {word!r}")


async def _serve(uri: str) -> None:
    from benchmarks.stores_ways import write_batches

    sink = open_sink(uri, default_experiment="bench")
    await sink.open()
    collect_rarely()
    print(_READY, flush=True)
    for line in sys.stdin:
        work = msgspec.json.decode(line, type=Work)
        made = make_traces(work.payload, work.traces)
        batches = [made[at : at + work.batch] for at in range(0, len(made), work.batch)]
        print(_READY, flush=True)
        sys.stdin.readline()
        await write_batches(sink, batches)
        print(_DONE, flush=True)
    await sink.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
