"""A process that passes records from memory through the stages, once for every line of its input:
`python -m benchmarks.stages_memory PAYLOAD TRACES CORE`. Answers with seconds and CPU seconds."""

import os
import sys
import time

from benchmarks.stage_records import make_records, pass_through
from spanferry_worker.settings import Settings

__all__ = ["main"]


def main(payload: str, traces: int, core: int) -> None:
    """Make the records, then serve."""
    os.sched_setaffinity(0, {core})
    records, settings = make_records(payload, traces), Settings()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        written = pass_through(records, settings)
        took = time.perf_counter() - wall, time.process_time() - cpu
        assert written == traces
        print(*took, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
