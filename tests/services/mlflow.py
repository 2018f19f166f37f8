"""A real `mlflow server` on a free port of 127.0.0.1."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Self

import httpx

from tests.services.process import GuardedProcess, ServiceError, free_port, wait_until_ready

__all__ = ["MlflowServer"]

START_TIMEOUT_S = 90.0  # a new database goes through all of MLflow's migrations first
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class MlflowServer:
    """Starts on entering, ends and deletes its data on leaving; stop() and start() keep both.

    Stores in `backend_uri` (any SQLAlchemy URL), by default an SQLite file of its own. The address
    to use as tracking URI is `uri`.
    """

    def __init__(self, backend_uri: str = "", *, workers: int = 1) -> None:
        self.backend_uri = backend_uri
        self.uri = ""
        self._workers = workers
        self._folder: Path | None = None
        self._process: GuardedProcess | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, or start it again; returns when it answers. Nothing happens if it runs."""
        process = self._process or self._prepare()
        if not process.running:
            process.start()
            wait_until_ready(
                process, self._answers, name="mlflow server", timeout_s=START_TIMEOUT_S
            )

    def stop(self) -> None:
        """Shut it down in order."""
        if self._process is None:
            raise ServiceError("cannot stop mlflow server: it was not started")
        self._process.stop()

    def close(self) -> None:
        """End it, if it runs, and delete its data (not a backend that was given)."""
        if self._process is not None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._process = None

    def log_tail(self) -> str:
        """The end of its log."""
        return self._process.log_tail() if self._process else ""

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.uri}/health", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _prepare(self) -> GuardedProcess:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="spanferry-mlflow-"))
        self.backend_uri = self.backend_uri or f"sqlite:///{folder}/mlflow.db"
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        options = [f"--backend-store-uri={self.backend_uri}", f"--port={port}", "--host=127.0.0.1"]
        options += [f"--artifacts-destination={folder}/artifacts", f"--workers={self._workers}"]
        self._process = GuardedProcess(
            [sys.executable, "-m", "mlflow", "server", *options],
            log=folder / "mlflow.log",
            env=ENVIRONMENT,
            grace_s=10.0,
        )
        return self._process
