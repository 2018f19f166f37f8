"""Kafka, MLflow and a worker on this machine, as child processes: what `dev` and `demo` share."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from spanferry_schemas import TOPIC
from spanferry_worker.dev.process import Child, Port, StartError, answers, listens, wait_until

__all__ = ["Ensemble", "Ports", "clean_environment", "prepare_directory", "start"]

GROUP: Final = "spanferry"
PARTITIONS: Final = 12
_START_S: Final = 180.0
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


class Ensemble(Struct, frozen=True):
    """The running parts. The worker may be replaced, so it is made by `new_worker`."""

    directory: Path
    ports: Ports
    new_worker: Callable[[], Child]

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address."""
        return f"127.0.0.1:{self.ports.broker}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address, for people too."""
        return f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def health_url(self) -> str:
        """The worker's health and metrics."""
        return f"http://127.0.0.1:{self.ports.health}"

    def worker_is_ready(self) -> bool:
        """Whether the worker has its partitions and its store."""
        return answers(f"{self.health_url}/readyz")


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


@contextlib.contextmanager
def start(directory: Path, ports: Ports, progress: Callable[[str], None]) -> Generator[Ensemble]:
    """Start broker and MLflow, wait for them, and end them afterwards; the worker is the caller's.

    `progress` is told what is being waited for. Raises StartError.
    """
    logs = directory / "logs"
    broker = _broker(ports, logs)
    mlflow = _mlflow(directory, ports, logs)

    def new_worker() -> Child:
        return _worker(ports, logs)

    with broker, mlflow:
        progress("Kafka")
        wait_until(broker, lambda: listens(ports.broker), timeout_s=_START_S)
        progress("MLflow")
        health = f"http://127.0.0.1:{ports.mlflow}/health"
        wait_until(mlflow, lambda: answers(health), timeout_s=_START_S)
        yield Ensemble(directory, ports, new_worker)


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
        ],
        log=logs / "worker.log",
        env=clean_environment(),
    )
