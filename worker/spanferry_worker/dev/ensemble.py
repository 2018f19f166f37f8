"""Kafka, MLflow and a worker on this machine, as child processes: what `dev` and `demo` share."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from spanferry_schemas import TOPIC
from spanferry_worker.dev.process import Child, Port, StartError, answers, listens, wait_until

__all__ = ["GROUP", "START_S", "Ensemble", "Ports", "clean_environment", "prepare_directory"]

GROUP: Final = "spanferry"
PARTITIONS: Final = 12
START_S: Final = 180.0
"""For the slowest: MLflow imports for long and goes through all of its migrations first."""
_MARKER: Final = ".spanferry"
_OWN: Final = ("mlflow.db", "mlflow.db-shm", "mlflow.db-wal", "artifacts", "logs", _MARKER)
_FOREIGN: Final = ("SPANFERRY_", "MLFLOW_", "_MLFLOW_", "OTEL_")

_MLFLOW_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class Ports:
    """Where everything listens on 127.0.0.1: as wanted where that is free. A context manager."""

    def __init__(self, *, broker: int, mlflow: int, health: int, app: int) -> None:
        self._claims = [Port(wanted) for wanted in (broker, mlflow, health, app)]
        self.broker, self.mlflow, self.health, self.app = (port.number for port in self._claims)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for claim in self._claims:
            claim.release()


class Ensemble:
    """The parts, running. A context manager: enter starts them all, leave ends them in order."""

    def __init__(self, directory: Path, ports: Ports) -> None:
        self.directory = directory
        self.ports = ports
        self.bootstrap_servers = f"127.0.0.1:{ports.broker}"
        self.tracking_uri = f"http://127.0.0.1:{ports.mlflow}"
        self.health_url = f"http://127.0.0.1:{ports.health}"
        self._children = contextlib.ExitStack()
        self._broker = _broker(ports, directory / "logs")
        self._mlflow = _mlflow(directory, ports, directory / "logs")
        self.worker = _worker(ports, directory / "logs")
        """The one that runs now."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for child in (self._broker, self._mlflow, self.worker):
                stack.enter_context(child)
            self._children = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def wait_until_ready(self, progress: Callable[[str], None]) -> None:
        """`progress` is told what is being waited for. Raises StartError."""
        progress("Kafka")
        wait_until(self._broker, lambda: listens(self.ports.broker), timeout_s=START_S)
        progress("MLflow")
        health = f"{self.tracking_uri}/health"
        wait_until(self._mlflow, lambda: answers(health), timeout_s=START_S)
        progress("the worker")
        ready = f"{self.health_url}/readyz"
        wait_until(self.worker, lambda: answers(ready), timeout_s=START_S)

    def replace_worker(self) -> None:
        """Kill the worker with -9 and start another in its place."""
        self.worker.kill()
        self.worker = self._children.enter_context(_worker(self.ports, self.directory / "logs"))

    def check(self) -> None:
        """Raises StartError where a part has ended by itself."""
        for child in (self._broker, self._mlflow, self.worker):
            if not child.running:
                raise StartError(f"{child.name} has ended\n{child.log_tail()}")


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings that are meant for something else."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return kept | _MLFLOW_ENVIRONMENT | dict(more or {})


def prepare_directory(directory: Path, *, fresh: bool) -> None:
    """Make the directory ready. `fresh` deletes what an earlier run left there, and nothing else.

    Raises StartError where the directory holds something that is not ours.
    """
    marker = directory / _MARKER
    if directory.exists() and not directory.is_dir():
        raise StartError(f"{directory} is not a directory: give another one with --directory")
    if directory.exists() and any(directory.iterdir()) and not marker.exists():
        raise StartError(f"{directory} is not empty and not ours: give another with --directory")
    for name in _OWN if fresh else ("logs",):
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (directory / "logs").mkdir(parents=True)
    marker.touch()


def _broker(ports: Ports, logs: Path) -> Child:
    topics = [f"--topic={TOPIC}:{PARTITIONS}", f"--topic={TOPIC}.dlq:1"]
    return Child(
        "the embedded broker",
        [sys.executable, "-m", "spanferry_worker.dev.broker", f"--port={ports.broker}", *topics],
        log=logs / "broker.log",
        env=clean_environment(),
        grace_s=3.0,
    )


def _mlflow(directory: Path, ports: Ports, logs: Path) -> Child:
    data = directory.resolve()
    return Child(
        "mlflow server",
        [
            *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", "--workers=1"),
            f"--port={ports.mlflow}",
            f"--backend-store-uri=sqlite:///{data}/mlflow.db",
            f"--artifacts-destination={data}/artifacts",
        ],
        log=logs / "mlflow.log",
        env=clean_environment(),
        grace_s=5.0,
    )


def _worker(ports: Ports, logs: Path) -> Child:
    return Child(
        "the worker",
        [
            *(sys.executable, "-m", "spanferry_worker", "worker"),
            f"--bootstrap-servers=127.0.0.1:{ports.broker}",
            f"--tracking-uri=http://127.0.0.1:{ports.mlflow}",
            f"--health-port={ports.health}",
            f"--group={GROUP}",
            # With a name of its own a worker that is started again takes its place at once.
            "--group-instance-id=local",
            # MLflow starts beside it, and is not there yet when it is first asked for.
            "--set=retry.retry_max_s=2",
        ],
        log=logs / "worker.log",
        env=clean_environment(),
    )
