"""Programs that tests start: apps and the servers that run them, ended whatever becomes of the test."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.services.process import ServiceError

__all__ = ["PROGRAMS", "Program", "program"]

PROGRAMS = "tests.processes.programs"
ROOT = Path(__file__).parents[2]
WAIT_S = 120.0


class Program:
    """`python -m <words>` in a process group of its own. Its output is kept, line by line."""

    def __init__(self, words: list[str], environment: dict[str, str], fds: tuple[int, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            pass_fds=fds,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that it and its children have said."""
        return "\n".join(self._lines)

    def wait_for(self, text: str, times: int = 1) -> str:
        """The line with this text in it, the so-manieth. Fails where it ends without."""
        deadline = time.monotonic() + WAIT_S
        with self._more:
            while True:
                lines = [line for line in self._lines if text in line]
                if len(lines) >= times:
                    return lines[times - 1]
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive() or not self._more.wait(left):
                    raise ServiceError(f"{text!r} was not said:\n{self.output}")

    def wait_until_it_reads(self) -> None:
        """Until its main thread sleeps in a read of its input.

        CPython looks for signals before such a call, not in it: one that comes between the look and the
        call waits for the call's end. Beside a thread that works that met one of 150.
        """
        place = Path(f"/proc/{self.pid}/wchan")
        deadline = time.monotonic() + WAIT_S
        while "pipe" not in (found := place.read_text()):
            if found == "0" and time.monotonic() > deadline - WAIT_S + 0.5:
                return  # this kernel does not say where threads sleep
            if time.monotonic() > deadline:
                raise ServiceError(f"it does not wait for input but in {found}:\n{self.output}")
            time.sleep(0.01)

    def tell(self, line: str) -> None:
        """A line for it to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> Self:
        """Send it, and it alone, a signal."""
        self._process.send_signal(number)
        return self

    def interrupt(self) -> Self:
        """As Ctrl-C does: the whole process group gets SIGINT."""
        os.killpg(self.pid, signal.SIGINT)
        return self

    def ended(self) -> int:
        """Its exit code, once it has ended and nobody holds its output any more."""
        code = self._process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert not self._reader.is_alive(), f"children of it live on:\n{self.output}"
        return code

    def close(self) -> None:
        """End what is left of it, children too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self._lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


@contextlib.contextmanager
def program(
    *words: str, fds: tuple[int, ...] = (), environment: dict[str, str] | None = None
) -> Iterator[Program]:
    """Run it; what is left of it at the end is killed."""
    running = Program(list(words), environment or {}, fds)
    try:
        yield running
    finally:
        running.close()
