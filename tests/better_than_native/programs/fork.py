"""A parent that has traced forks children that trace, as gunicorn --preload does."""

import os
import signal
import time

import mlflow

from tests.better_than_native.programs.shipping import answer, begin, bounded, leave, trace

CHILDREN = 4
TRACES = 10
HUNG = 3


def child(first: int, flush_s: float) -> None:
    for number in range(first, first + TRACES):
        trace(number)
    leave(0 if bounded(mlflow.flush_trace_async_logging, flush_s) else HUNG)


def wait_for(pid: int, seconds: float) -> int | None:
    """The child's exit code; None where it had to be killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main() -> None:
    options = begin()
    flush_s = options["flush_s"]
    trace(-1)
    parent_flushed = bounded(mlflow.flush_trace_async_logging, 30)
    pids = []
    for number in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            child(number * TRACES, flush_s)
        pids.append(pid)
    codes = [wait_for(pid, flush_s + 10) for pid in pids]
    hung = sum(code != 0 for code in codes)
    answer(parent_flushed=parent_flushed, hung=hung, codes=codes)
    leave()


if __name__ == "__main__":
    main()
