"""Programs that start at once: forked from a Python that has imported MLflow, which takes 5 to 8 s of CPU.

For programs whose own start is not what a test is about. `start` is to them what `subprocess.Popen` is,
`run` what `subprocess.run` is.
"""

import atexit
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.services.process import ServiceError
from tests.services.warm_python import Order

__all__ = ["WarmProgram", "WarmPython", "run", "start"]

ROOT = Path(__file__).parents[2]
OURS = ("SPANFERRY_", "MLFLOW_", "ENABLE_MLFLOW_TRACING", "OTEL_")
READ_BYTES = 1 << 16
IMPORTED = (
    "mlflow",
    "mlflow.genai",
    "mlflow.store.tracking.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite",
)


class WarmProgram:
    """A program that runs: of `subprocess.Popen` what tests use. Its output is text."""

    def __init__(self, pid: int, status: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = stdout, stderr
        self._status = status

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        return self.returncode if self._ended_within(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if not self._ended_within(timeout):
            raise subprocess.TimeoutExpired(f"warm program {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Nobody reads its output any more, or asks how it has ended."""
        for stream in (self.stdout, self.stderr, self._status):
            stream.close()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The rest of its output and of its errors, until nobody writes them any more."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said = dict.fromkeys((self.stdout, self.stderr), b"")
        with selectors.DefaultSelector() as selector:
            for stream in said:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not (ready := selector.select(left)):
                    raise subprocess.TimeoutExpired(f"warm program {self.pid}", timeout or 0)
                for key, _ in ready:
                    more = os.read(key.fd, READ_BYTES)
                    said[key.fileobj] += more  # type: ignore[index]
                    if not more:
                        selector.unregister(key.fileobj)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        self.close()
        return said[self.stdout].decode(), said[self.stderr].decode()

    def _ended_within(self, seconds: float | None) -> bool:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(seconds):
                    return False
            with self._status as status:
                self.returncode = int(status.readline())
        return True


class WarmPython:
    """The Python that forks, while this process lives, and what it has imported before."""

    def __init__(self, imported: Sequence[str] = IMPORTED) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: text for name, text in os.environ.items() if not name.startswith(OURS)}
        command = [sys.executable, "-m", "tests.services.warm_python"]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), *imported],
                cwd=ROOT,
                env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._close)

    def start(self, order: Order, errors: IO[bytes] | None = None) -> WarmProgram:
        """Fork a program. Its errors go to that file, where there is one."""
        ends = [os.pipe() for _ in range(3)]
        stdout, stderr, status = (os.fdopen(end, encoding="utf-8") for end, _ in ends)
        given = [end for _, end in ends]
        if errors is not None:
            given[1] = errors.fileno()
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], given)
        finally:
            for _, end in ends:
                os.close(end)
        pid = status.readline()
        if not pid:
            raise ServiceError("the Python that has imported MLflow ended: it says why above")
        if errors is not None:
            stderr.close()
        return WarmProgram(int(pid), status, stdout, stderr)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


_python = functools.cache(WarmPython)


def start(
    module: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    errors: IO[bytes] | None = None,
) -> WarmProgram:
    """Start `python -m module *arguments`; the caller ends it. Its errors may go to a file."""
    environment = dict(os.environ if env is None else env)
    return _python().start(Order(module, list(arguments), str(cwd), environment), errors)


def run(
    module: str,
    *arguments: str,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end; `tests.services.warm_code` runs the text of a program.

    Raises subprocess.TimeoutExpired, and kills it, after `timeout` seconds.
    """
    program = start(module, *arguments, env=env, cwd=cwd)
    try:
        stdout, stderr = program.communicate(timeout)
    finally:
        program.kill()
        program.close()
    assert program.returncode is not None
    return subprocess.CompletedProcess([module, *arguments], program.returncode, stdout, stderr)
