"""What open() says about a tracking URI that is wrong, not ready, or not MLflow."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.services.mlflow_sink import open_sink
from tests.services.mlflow import MlflowServer
from tests.services.process import free_port
from tests.sinks.conftest import OpenSink
from tests.sinks.stores import five_spans

pytestmark = pytest.mark.mlflow


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file:///tmp/mlruns", "use MLflow's database"),
        ("./mlruns", "use MLflow's database"),
        ("", "use MLflow's database"),
        ("s3://bucket/x", "use MLflow's database"),
        ("databricks-uc://profile", "use MLflow's database .* or databricks"),
    ],
)
def test_uris_that_hold_no_traces(uri: str, says: str) -> None:
    with pytest.raises(FatalError, match=says):
        open_sink(uri, default_experiment="x")


async def test_an_empty_database_is_initialised(opened: OpenSink, tmp_path: Path) -> None:
    sink = await opened(f"sqlite:///{tmp_path}/new.db")
    await sink.write([five_spans()])
    assert sink.concurrency == 2


async def test_nothing_answers(opened: OpenSink) -> None:
    for uri in (
        f"http://127.0.0.1:{free_port()}",
        f"postgresql://postgres@127.0.0.1:{free_port()}/mlflow",
    ):
        with pytest.raises(TransientError, match="answer"):
            await opened(uri)


async def test_open_again_after_nothing_answered(mlflow_server: MlflowServer) -> None:
    """The runtime calls open() until it works."""
    sink = open_sink(mlflow_server.uri, default_experiment="x")
    await sink.open()
    await sink.open()
    await sink.close()
    await sink.close()


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (200, "<html>hello</html>", FatalError, "not an MLflow server"),
        (404, "", FatalError, "not an MLflow server"),
        (200, "2.22.0", FatalError, "runs MLflow 2.22.0"),
        (401, "", FatalError, "MLFLOW_TRACKING_USERNAME"),
        (503, "starting", TransientError, "not ready"),
        (200, "3.17.2", FatalError, "does not take traces"),
    ],
)
async def test_something_else_answers(
    opened: OpenSink,
    other_server: Callable[[int, str], str],
    status: int,
    body: str,
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        await opened(other_server(status, body))


async def test_a_database_that_is_not_mlflows(
    opened: OpenSink, tmp_path: Path, postgres_template: Callable[[], str]
) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.close()
    with pytest.raises(FatalError, match="none of MLflow's"):
        await opened(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(FatalError, match="cannot open MLflow's database"):
        await opened(postgres_template().rpartition("/")[0] + "/no_such_database")
    with pytest.raises(FatalError, match="cannot open MLflow's database"):
        await opened("sqlite:////no/such/folder/x.db")


@pytest.mark.parametrize(
    ("revision", "says"),
    [("b7e2c1a4d9f3", "mlflow db upgrade"), ("ffffffffffff", "newer than this worker's")],
)
async def test_another_schema_is_never_migrated(
    opened: OpenSink,
    tmp_path: Path,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
    revision: str,
    says: str,
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    monkeypatch.setattr("spanferry_worker.services.mlflow_sql.SCHEMA_SETTLE_S", 0.01)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.commit()
    with pytest.raises(FatalError, match=says):
        await opened(f"sqlite:///{path}")
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
    connection.close()


async def test_a_schema_that_is_being_made(
    opened: OpenSink,
    tmp_path: Path,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    monkeypatch.setattr("spanferry_worker.services.mlflow_sql.SCHEMA_SETTLE_S", 0.01)
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM alembic_version")
    connection.commit()
    connection.close()
    with pytest.raises(TransientError, match="being migrated"):
        await opened(f"sqlite:///{path}")


async def test_a_deleted_default_experiment(
    opened: OpenSink, postgres_template: Callable[[], str]
) -> None:
    uri = postgres_template()
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE experiments SET lifecycle_stage = 'deleted'")
    with pytest.raises(FatalError, match="mlflow experiments restore --experiment-id 0"):
        await opened(uri, default_experiment="Default")


def test_opening_is_quiet_and_traces_nothing(tmp_path: Path, template: Path) -> None:
    """No telemetry, no exporter thread, no output; and the module is cheap until it is opened."""
    shutil.copyfile(template, tmp_path / "mlflow.db")
    program = """
import asyncio, sys, threading
from spanferry_worker.services.mlflow_sink import open_sink
assert "mlflow" not in sys.modules
async def main():
    sink = open_sink(sys.argv[1], default_experiment="x")
    await sink.open()
    from mlflow.telemetry.utils import is_telemetry_disabled
    from mlflow.tracing import provider
    assert is_telemetry_disabled()
    assert not provider.provider.once._done, "a tracer provider was started"
    names = {thread.name for thread in threading.enumerate()}
    assert not any("xport" in name or "elemetry" in name for name in names), names
    await sink.close()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/mlflow.db"],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DO_NOT"))},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
