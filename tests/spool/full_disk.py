"""An app whose spool is on a small disk; it does what it reads, and says how that went.

`python -m tests.spool.full_disk BOOTSTRAP TOPIC FOLDER MODE` reads a command a line and answers with
it and a line of JSON.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

import msgspec

from spanferry import outlet
from spanferry.client import Stats, disable, enable, flush, stats
from tests.producer.traffic import a_trace

BUFFER_BYTES = 2_000_000
TRACE_BYTES = 4000
TRACES_PER_S = 1500.0
PAGE_BYTES = 4096


class Answer(msgspec.Struct):
    """What there is after a command."""

    stats: Stats
    slowest_s: float
    """Of all `put` until now."""
    free_bytes: int
    """On the disk."""
    files: list[str]
    """In the spool."""
    descriptors: int
    """That the process has open in the spool."""


class App:
    """Numbers its traces 0, 1, 2 …, as their ids."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"
        self.ballast = folder / "ballast"
        self.slowest_s = 0.0
        self.traced = 0

    def send(self, count: str) -> None:
        """Hand over so many traces, evenly."""
        current = outlet.current()
        assert current is not None
        begun_s = time.monotonic()
        for number in range(int(count)):
            trace = a_trace(TRACE_BYTES)
            trace = msgspec.structs.replace(trace, trace_id=self.traced.to_bytes(16, "big"))
            self.traced += 1
            before_s = time.monotonic()
            current.put(trace)
            self.slowest_s = max(self.slowest_s, time.monotonic() - before_s)
            time.sleep(max(begun_s + number / TRACES_PER_S - time.monotonic(), 0))

    def fill(self) -> None:
        """Take all the room there is on the disk, as somebody else's log would; the spool's own part of
        it, where tracing is on, has begun by then."""
        while stats().enabled and not list(self.spool.glob("*.lock")):
            time.sleep(0.05)
        with self.ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(PAGE_BYTES))

    def free(self) -> None:
        """Give it back."""
        self.ballast.unlink()

    def refused(self, times: str) -> None:
        """Wait until the spool has asked the disk in vain so many times more."""
        before = stats().spool_refused
        while stats().spool_refused < before + int(times):
            time.sleep(0.05)

    def spooled(self) -> None:
        """Wait until memory holds nothing."""
        while stats().traces_buffered:
            time.sleep(0.05)

    def arrive(self) -> None:
        """Wait until memory and spool hold nothing."""
        flush(60)
        while stats().traces_buffered or stats().spool_parcels_replayed < stats().parcels_spooled:
            time.sleep(0.05)

    def answer(self) -> Answer:
        """What there is now."""
        disk = os.statvfs(self.spool.parent)
        files = sorted(one.name for one in self.spool.iterdir()) if self.spool.exists() else []
        opened = []
        for one in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                opened.append(one.readlink())
        descriptors = sum(str(one).startswith(str(self.spool)) for one in opened)
        return Answer(stats(), self.slowest_s, disk.f_bavail * disk.f_frsize, files, descriptors)


def main(bootstrap_servers: str, topic: str, folder: str, mode: str) -> None:
    """One app's life."""
    app = App(Path(folder))
    if mode.startswith("full-"):
        app.fill()
    enable(
        bootstrap_servers=bootstrap_servers,
        topic=topic,
        spool_dir=str(app.spool),
        spool_mode="always" if mode.endswith("always") else "overflow",
        buffer_bytes=BUFFER_BYTES,
        record_bytes_max=500_000,
        exit_timeout_s=5.0,
        mlflow=False,
        collect_environment=False,
    )
    for line in sys.stdin:
        command, *words = line.split()
        if command == "end":
            break
        getattr(app, command)(*words)
        print(command, msgspec.json.encode(app.answer()).decode(), flush=True)
    disable()


if __name__ == "__main__":
    main(*sys.argv[1:])
