"""Child processes that are never left behind, the ports they listen on, and waiting for them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import httpx

__all__ = ["Child", "Port", "StartError", "answers", "listens", "wait_until"]

_GUARD: Final = Path(__file__).with_name("guard.py")
_POLL_S: Final = 0.1
_LOG_TAIL_LINES: Final = 25
_HOST: Final = "127.0.0.1"
_PORT_TRIES: Final = 20


class StartError(RuntimeError):
    """A child did not start. The message says which, and shows the end of its log."""


class Child:
    """One command under guard.py: it ends when stopped, or when this process is gone, however.

    A context manager; what the command prints is appended to `log`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log = log
        self.pid = 0
        self._command = [str(part) for part in command]
        self._env = {**os.environ, **(env or {})}
        self._grace_s = grace_s
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the command. Raises StartError where it cannot be executed."""
        with self.log.open("ab") as log:
            guard = subprocess.Popen(  # noqa: S603  the command is our own
                [sys.executable, "-S", _GUARD, str(self._grace_s), *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,  # Ctrl-C is for us; we stop the children in order
            )
        self._guard = guard
        assert guard.stdout is not None
        with guard.stdout as answer:
            pid = answer.readline()
        if not pid:
            self.stop()
            raise StartError(f"{self.name} cannot be started\n{self.log_tail()}")
        self.pid = int(pid)

    @property
    def running(self) -> bool:
        """Whether the command runs."""
        return self._guard is not None and self._guard.poll() is None

    def stop(self) -> None:
        """End it in order, or by force after the grace. Returns when it is gone."""
        guard = self._guard
        if guard is None:
            return
        guard.send_signal(signal.SIGTERM)
        guard.wait()
        if guard.stdin is not None:
            guard.stdin.close()

    def kill(self) -> None:
        """End the command itself with SIGKILL."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            self.stop()

    def log_tail(self) -> str:
        """The end of what it printed."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"--- {self.log} ---", *lines[-_LOG_TAIL_LINES:]])


class Port:
    """A port of 127.0.0.1 that nothing has: `preferred`, or any free one where that is taken.

    Until `release` no other Port has the same number, in this process or another one: two commands
    that start at the same time do not end up in each other's services.
    """

    def __init__(self, preferred: int) -> None:
        self._claim = socket.socket(socket.AF_UNIX)
        for number in (preferred, *(0 for _ in range(_PORT_TRIES))):
            port = _bindable(number)
            if port and self._claimed(port):
                self.number = port
                return
        self._claim.close()
        raise StartError(f"no free port on {_HOST}")

    def release(self) -> None:
        """Leave it to others."""
        self._claim.close()

    def _claimed(self, port: int) -> bool:
        try:
            # A name in Linux' abstract namespace: it is gone with the process, however that ends.
            self._claim.bind(f"\0spanferry-port-{port}")
        except OSError:
            return False
        return True


def _bindable(port: int) -> int:
    """The port, or for 0 one that the system picks; 0 where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return 0
        bound: int = probe.getsockname()[1]
        return bound


def listens(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) == 0


def answers(url: str) -> bool:
    """Whether a GET of the address succeeds."""
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def wait_until(child: Child, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
    """Poll until the child is ready. Raises StartError, with its log, where it ends or is late."""
    deadline = time.monotonic() + timeout_s
    while True:
        if not child.running:
            raise StartError(f"{child.name} ended while starting\n{child.log_tail()}")
        if is_ready():
            return
        if time.monotonic() > deadline:
            raise StartError(f"{child.name} is not ready after {timeout_s:g} s\n{child.log_tail()}")
        time.sleep(_POLL_S)
