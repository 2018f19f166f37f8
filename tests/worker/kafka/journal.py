"""A worker process on real Kafka whose store is a file: what is stored outlives any death.

Run as a program: `python -m tests.worker.kafka.journal FILE DELAY_S KEY=VALUE...`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop
from msgspec.structs import replace

from spanferry_schemas import Assessment
from spanferry_worker.runtime.lifecycle import make_parts, serve
from spanferry_worker.settings import load_settings
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import set_up_logging


class JournalSink:
    """Appends a line for every trace, durably, before `write` returns."""

    concurrency = 1

    def __init__(self, path: Path, delay_s: float) -> None:
        self._path = path
        self._delay_s = delay_s

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to release."""

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        """One line a trace."""
        await asyncio.sleep(self._delay_s)
        await asyncio.to_thread(self._append, batch)

    async def marks(self, trace_ids: Sequence[bytes]) -> dict[bytes, dict[str, str]]:
        """Nothing is cut here."""
        return {}

    async def marks_of_request(self, assessment: Assessment) -> None:
        """Nor here."""

    def _append(self, batch: Sequence[AssembledTrace]) -> None:
        with self._path.open("a") as file:
            for trace in batch:
                assert trace.trace_id is not None
                spans = [span.span_id.hex() for span in trace.spans]
                line = [trace.trace_id.hex(), spans, trace.complete, trace.reason.value]
                file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def journal(path: Path) -> "Iterator[tuple[str, list[str], bool, str]]":
    """What was stored so far; a last line cut by a kill was never acknowledged."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield tuple(json.loads(line))


def main() -> None:
    path, delay_s, *words = sys.argv[1:]
    args = dict(word.split("=", 1) for word in words)
    settings = load_settings(args | {"tracking_uri": "http://unused"}, {})
    set_up_logging("text", "info")
    sink = JournalSink(Path(path), float(delay_s))
    uvloop.run(serve(settings, replace(make_parts(settings), sink=sink)))


if __name__ == "__main__":
    main()
