"""guard.py for a program that is forked, by warm_python.py, instead of started.

warm_guard GRACE_S STOP_SIGNAL MODULE ARGUMENTS...
"""

import os
import runpy
import signal
import sys

from tests.services.guard import AWAITED, prepare_child, watch


class Forked:
    """A child of this process: of `subprocess.Popen` what the guard uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = self._look(0)
        assert code is not None
        return code

    def _look(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def main() -> None:
    """Return in the program, at its end."""
    grace_s, stop_signal, module = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    parent_pid, (read_end, write_end) = os.getppid(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(read_end)
        os.close(write_end)
        os.dup2(2, 1)
        prepare_child()
        sys.argv[1:] = sys.argv[4:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    os.close(write_end)
    os.read(read_end, 1)  # until it has a process group of its own
    code = watch(Forked(pid), parent_pid, stop_signal, grace_s)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
