"""A real `mlflow server` on a free port of 127.0.0.1."""

import sys
from pathlib import Path
from typing import ClassVar

import httpx

from tests.services.mlflow_tables import copy_tables
from tests.services.process import GuardedProcess, free_port
from tests.services.service import Service

__all__ = ["ONE_WRITE_A_TRACE", "MlflowServer"]

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
}

ONE_WRITE_A_TRACE = {
    # With more log_spans a trace, or with more threads, MLflow's token counts and durations depend
    # on which comes first.
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS": "1",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "512",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "60000",
    "MLFLOW_MODEL_CATALOG_URI": "",
}
"""What makes MLflow's own SDK store the same in every run."""


class MlflowServer(Service):
    """Stores in `backend_uri` (any SQLAlchemy URL), by default an SQLite file of its own.

    The address to use as tracking URI is `uri`. A backend that was given is not deleted.
    """

    name: ClassVar[str] = "MLflow"
    start_timeout_s: ClassVar[float] = 150.0
    """A new database goes through all of MLflow's migrations first."""

    def __init__(
        self, backend_uri: str = "", *, workers: int = 1, python: Path | None = None
    ) -> None:
        """`python` is one with another MLflow."""
        super().__init__()
        self.backend_uri = backend_uri
        self.uri = ""
        self._workers = workers
        self._python = python

    def kill(self) -> None:
        """End it as a crash would."""
        self._own("kill").kill()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.uri}/health", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _prepare(self, folder: Path) -> GuardedProcess:
        if not self.backend_uri:
            tables = folder / "mlflow.db"
            self.backend_uri = copy_tables(tables, "mlflow-artifacts:/", python=self._python)
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        options = [f"--backend-store-uri={self.backend_uri}", f"--port={port}", "--host=127.0.0.1"]
        options += [f"--artifacts-destination={folder}/artifacts", f"--workers={self._workers}"]
        return GuardedProcess(
            [self._python or sys.executable, "-m", "mlflow", "server", *options],
            log=folder / "mlflow.log",
            env=ENVIRONMENT,
            grace_s=10.0,
        )
