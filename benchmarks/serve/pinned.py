"""Runs a command on given cores, and has it end with its parent: `python -m benchmarks.serve.pinned 0 CMD`.

Cores are separated by commas; `-` leaves them as they are.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(cores: str, command: list[str]) -> None:
    """Become the command."""
    if cores != "-":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
