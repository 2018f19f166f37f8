"""Runs one command, and ends it and all that it started when the process that asked for it is gone.

A script of its own, so that it outlives a parent killed with -9:
    guard.py GRACE_S COMMAND...
Its standard input is a pipe that the parent holds: the end of the pipe is the end of the parent.
It prints the command's pid, and exits with the command's status (128 + N where signal N ended it).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
PR_SET_PDEATHSIG = 1


def prepare_child() -> None:
    """In the child, before it becomes the command: end with the guard, and hear signals again."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)


def stop_when_parent_is_gone() -> None:
    """In a thread: turn the end of standard input into SIGTERM for the guard."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def end_group(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Ask the command and what it started to stop; kill what is left after the grace."""
    deadline = time.monotonic() + grace_s
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        os.killpg(child.pid, signal.SIGCONT)
    while child.poll() is None and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def main(grace_s: float, command: list[str]) -> int:
    """Run the command to its end, or to the guard's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    child = subprocess.Popen(  # noqa: S603  the command is the caller's
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=prepare_child,  # noqa: PLW1509  no thread runs yet
    )
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    threading.Thread(target=stop_when_parent_is_gone, daemon=True).start()
    while child.poll() is None and signal.sigwait(AWAITED) == signal.SIGCHLD:
        pass
    end_group(child, grace_s)
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
