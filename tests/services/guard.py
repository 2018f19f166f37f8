"""Runs one command and ends it, and all that it started, when the process that asked for it is gone.

A script of its own, so that it survives a parent killed with -9:
    guard.py PARENT_PID GRACE_S STOP_SIGNAL USER COMMAND...
It prints the command's pid on stdout, sends the command's output to stderr, ends the command's
process group on SIGTERM or when PARENT_PID is not its parent any more, and returns its exit status.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.services.warm_guard import Forked

    Child = subprocess.Popen[bytes] | Forked

PARENT_CHECK_S = 0.5
PR_SET_PDEATHSIG = 1
AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


def prepare_child() -> None:
    """In the child, before it becomes the command: end with the guard, and hear signals again."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)


def wait_for_end(child: "Child", timeout_s: float) -> None:
    """Return when the child has ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    while child.poll() is None and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, min(left, PARENT_CHECK_S))


def end_group(child: "Child", stop_signal: int, grace_s: float) -> None:
    """Ask the child to stop, wake it if it is paused, and kill what is left after the grace."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, stop_signal)
        os.killpg(child.pid, signal.SIGCONT)
        wait_for_end(child, grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def watch(child: "Child", parent_pid: int, stop_signal: int, grace_s: float) -> int:
    """Until the child has ended, which it is made to where it has to: its exit code."""
    print(child.pid, flush=True)
    while child.poll() is None:
        received = signal.sigtimedwait(AWAITED, PARENT_CHECK_S)
        asked_to_stop = received is not None and received.si_signo != signal.SIGCHLD
        if asked_to_stop or os.getppid() != parent_pid:
            break
    end_group(child, stop_signal, grace_s)
    return child.wait()


def main(arguments: list[str]) -> int:
    parent_pid, grace_s, stop_signal = int(arguments[0]), float(arguments[1]), int(arguments[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    identity = {"user": arguments[3], "group": None, "extra_groups": []} if arguments[3] else {}
    if identity:
        import pwd

        identity["group"] = pwd.getpwnam(arguments[3]).pw_gid
    child = subprocess.Popen(
        arguments[4:],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=prepare_child,  # noqa: PLW1509 - this process has one thread
        **identity,
    )
    return watch(child, parent_pid, stop_signal, grace_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
