"""How long spanferry's part of a process's end takes, by the process's own clock: what starts Python, and
what else a busy machine does, is not in it."""

import atexit
import os
import time
from collections.abc import Callable

from spanferry import client, leaving, termination

__all__ = ["measure"]


def measure() -> None:
    """After `enable()`: have each end say what it took, also those of forked children."""
    at_exit = _measured("exit", client._at_exit)
    atexit.unregister(client._at_exit)
    atexit.register(at_exit)
    client._at_exit = at_exit
    leaving.arrange(at_exit)
    if termination._flush is not None:
        termination._flush = _measured("signal", termination._flush)


def _measured(name: str, end: Callable[[], object]) -> Callable[[], None]:
    def measured() -> None:
        begun_s = time.monotonic()
        try:
            end()
        finally:
            took_s = time.monotonic() - begun_s
            # In one write, because several processes may share the pipe.
            os.write(2, f"ended {os.getpid()} by {name} in {took_s:.3f} s\n".encode())

    return measured
