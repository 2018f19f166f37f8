"""A Python that has imported what is large, and forks itself for every program that it is told to run.

    python -m tests.services.warm_python SOCKET MODULES...

SOCKET is the number of a descriptor that warm.py holds the other end of; when that is closed, this ends.
A program gets the environment, folder, arguments and output that were asked for, and runs as `__main__` to
the end of its interpreter. MODULES are MLflow's and others': nothing of spanferry is imported here.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from typing import NamedTuple

ORDER_BYTES_MAX = 1 << 18
PR_SET_PDEATHSIG = 1


class Order(NamedTuple):
    """A program to run: a module, its arguments, where, and with which environment."""

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]


def take(channel: socket.socket) -> tuple[Order, list[int]] | None:
    """The next order with its descriptors (output, errors, status), or None: nobody is there any more."""
    message, descriptors, _, _ = socket.recv_fds(channel, ORDER_BYTES_MAX, 3)
    return (Order(*json.loads(message)), descriptors) if message else None


def reap() -> None:
    """Forget keepers that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_with_parent() -> None:
    """So that nothing outlives the tests, however these end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(channel: socket.socket) -> Order | None:
    """In each program: its order. In the Python that forks: None, at its end."""
    while (taken := take(channel)) is not None:
        order, descriptors = taken
        if os.fork() == 0:
            channel.close()
            keep(*descriptors)
            return order
        for one in descriptors:
            os.close(one)
        reap()
    return None


def keep(output: int, errors: int, status: int) -> None:
    """Return in the program. Its keeper says its pid, waits for it, and says how it has ended."""
    end_with_parent()
    pid = os.fork()
    if pid == 0:
        end_with_parent()
        os.dup2(output, 1)
        os.dup2(errors, 2)
        for one in (output, errors, status):
            os.close(one)
        return
    os.dup2(status, 0)
    os.closerange(1, max(output, errors, status) + 1)
    os.write(0, b"%d\n" % pid)
    _, ended = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(0, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def run(order: Order) -> None:
    """As `python -m MODULE ARGUMENTS` would."""
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    sys.argv[1:] = order.arguments
    runpy.run_module(order.module, run_name="__main__", alter_sys=True)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    ours = [name for name in sys.modules if name.startswith("spanferry")]
    assert not ours, f"imported before the programs: {ours}"
    assert threading.active_count() == 1, f"a fork would lose threads: {threading.enumerate()}"
    gc.freeze()  # else each program copies all pages of it when it looks for garbage
    if (order := serve(channel)) is not None:
        run(order)


if __name__ == "__main__":
    main()
