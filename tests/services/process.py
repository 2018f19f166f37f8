"""Processes that tests and benchmarks start: on free ports, logged, never left behind."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from tests.services.warm import WarmProgram

__all__ = ["GuardedProcess", "ServiceError", "free_port", "wait_until_ready"]

GUARD = Path(__file__).with_name("guard.py")
LOG_TAIL_LINES = 25
POLL_S = 0.1
STOP_POLL_S = 0.002
# Below the range that the kernel hands out for outgoing connections (32768 and up on Linux): such
# a port stays free while a service is stopped, so it can come back on it.
PORTS = range(12_000, 30_000)


class ServiceError(RuntimeError):
    """A service that tests need is missing or broken. The message says how to get it."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    chance = random.SystemRandom()
    for _ in range(200):
        port = chance.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServiceError(f"no free port of 127.0.0.1 in {PORTS}")


class GuardedProcess:
    """One command under guard.py: ends when stopped, or when this process is gone, however.

    Its output goes to `log`, appended. `stop_signal` is what ends it gracefully. A `warm` one is forked
    from a Python that has imported MLflow: its command is a module and its arguments.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str = "",
        warm: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 20.0,
    ) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._user = user
        self._warm = warm
        self._stop_signal = stop_signal
        self._grace_s = grace_s
        self._guard: subprocess.Popen[bytes] | WarmProgram | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the command. Raises ServiceError when it cannot be executed."""
        with self._log.open("ab") as log:
            self._guard = self._forked(log) if self._warm else self._started(log)
        assert self._guard.stdout is not None
        with self._guard.stdout as answer:
            pid = answer.readline()
        if not pid:
            self._guard.wait()
            raise ServiceError(f"cannot run {self._command[0]}\n{self.log_tail()}")
        self.pid = int(pid)

    def _started(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        guard_arguments = [os.getpid(), self._grace_s, int(self._stop_signal), self._user]
        return subprocess.Popen(
            [sys.executable, "-S", GUARD, *map(str, guard_arguments), *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=self._env,
            cwd=self._log.parent,
            start_new_session=True,  # Ctrl-C is for us; we then stop it in order
        )

    def _forked(self, log: IO[bytes]) -> "WarmProgram":
        from tests.services import warm

        guard_arguments = [str(self._grace_s), str(int(self._stop_signal))]
        return warm.start(
            "tests.services.warm_guard",
            *guard_arguments,
            *self._command,
            env=self._env,
            cwd=self._log.parent,
            errors=log,
        )

    @property
    def running(self) -> bool:
        """Whether the command runs (paused counts)."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs or before it was started."""
        return None if self._guard is None else self._guard.poll()

    def stop(self) -> None:
        """End it gracefully, or by force after the grace. Returns when it is gone."""
        if self._guard is None:
            return
        self._guard.send_signal(signal.SIGTERM)  # nothing if it has ended already
        self._guard.wait()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL). Returns when it is gone."""
        self.end_by(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it (SIGSTOP). Returns when none of its threads runs."""
        self._send(signal.SIGSTOP)
        while not all(state == "T" for state in self._thread_states()):
            time.sleep(STOP_POLL_S)

    def resume(self) -> None:
        """Let it go on after pause()."""
        self._send(signal.SIGCONT)

    def end_by(self, number: signal.Signals) -> None:
        """Send it a signal that ends it. Returns when it is gone."""
        self._send(number)
        if self._guard is not None:
            self._guard.wait()

    def _send(self, number: signal.Signals) -> None:
        if not self.running:
            raise ServiceError(f"{self._command[0]} does not run\n{self.log_tail()}")
        os.kill(self.pid, number)

    def _thread_states(self) -> list[str]:
        stats = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The end of what it printed."""
        if not self._log.exists():
            return ""
        text = self._log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- {self._log} ---", *text[-lines:]])


def wait_until_ready(
    process: GuardedProcess, is_ready: Callable[[], bool], *, name: str, timeout_s: float = 150.0
) -> None:
    """Poll until the service answers. Raises ServiceError with its log when it ends or is late."""
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        if not process.running:
            raise ServiceError(f"{name} ended while starting\n{process.log_tail()}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{name} not ready after {timeout_s:g} s\n{process.log_tail()}")
        time.sleep(POLL_S)
