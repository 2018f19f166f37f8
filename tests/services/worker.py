"""A real `spanferry worker`, as its users start it."""

import shutil
import sys
import tempfile
from pathlib import Path

import httpx

from tests.services.process import GuardedProcess, free_port, wait_until_ready
from tests.services.service import Startable

__all__ = ["SpanferryWorker"]

START_TIMEOUT_S = 150.0


class SpanferryWorker(Startable):
    """Starts on entering, drains and ends on leaving. `options` are `spanferry worker`'s own.

    Everything is stored whole, as it came, and what is dead waits no longer than a second to be so, unless
    they say otherwise. A `warm` one does not import MLflow itself, but is forked where it is imported.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        topic: str,
        tracking_uri: str,
        group: str = "spanferry",
        options: tuple[str, ...] = (),
        warm: bool = False,
    ) -> None:
        self.health_port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="spanferry-worker-"))
        arguments = [
            f"--bootstrap-servers={bootstrap_servers}",
            f"--topic={topic}",
            f"--tracking-uri={tracking_uri}",
            f"--group={group}",
            f"--health-port={self.health_port}",
            "--set=sample.target_bytes=0",
            "--set=dead_letters.hold_s=1",
            *options,
        ]
        self._process = GuardedProcess(
            [*([] if warm else [sys.executable, "-m"]), "spanferry_worker", "worker", *arguments],
            log=self._folder / "worker.log",
            env={"MLFLOW_DISABLE_TELEMETRY": "true"},
            warm=warm,
        )

    def start(self, *, ready: bool = True) -> None:
        """Start it; with `ready` return when it owns partitions and reaches MLflow."""
        self._process.start()
        self.wait("readyz" if ready else "healthz")

    def wait(self, path: str = "readyz", timeout_s: float = START_TIMEOUT_S) -> None:
        """Until that page says yes. Raises ServiceError where the worker ends, or takes too long."""
        wait_until_ready(
            self._process, lambda: self._answers(path), name="worker", timeout_s=timeout_s
        )

    @property
    def pid(self) -> int:
        """Its process, or the supervisor's where there are several."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.running

    @property
    def ready(self) -> bool:
        """Whether /readyz says yes."""
        return self._answers("readyz")

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._process.kill()

    def pause(self) -> None:
        """Freeze it (SIGSTOP)."""
        self._process.pause()

    def resume(self) -> None:
        """Let it go on after pause()."""
        self._process.resume()

    def stop(self) -> None:
        """Drain and end (SIGTERM)."""
        self._process.stop()

    def close(self) -> None:
        """End it, if it runs, and delete its log."""
        self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its text up to the value."""
        text = httpx.get(self._url("metrics"), timeout=5, trust_env=False).text
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def log_tail(self, lines: int = 60) -> str:
        """The end of its log."""
        return self._process.log_tail(lines)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.health_port}/{path}"

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self._url(path), timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False
