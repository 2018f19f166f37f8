"""An SQLite file with MLflow's tables, made once: all of its migrations take seconds."""

import contextlib
import importlib.metadata
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["copy_tables"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"


def copy_tables(path: Path, artifact_root: str, *, python: Path | None = None) -> str:
    """Make `path` a database of the installed MLflow that nothing has been stored in: its URI.

    Traces of the default experiment keep their artifacts below `artifact_root`. With `python` the MLflow
    is that of another environment.
    """
    made = CACHE / f"mlflow-{_version(python)}-tables.db"
    if not made.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            new = Path(folder) / "mlflow.db"
            if python is None:
                _migrate(new)
            else:
                subprocess.run([python, "-m", __name__, new], cwd=ROOT, check=True, timeout=100)
            new.replace(made)  # another process may have been faster
    shutil.copyfile(made, path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        sql = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0"
        connection.execute(sql, (f"{artifact_root.rstrip('/')}/0",))
    return f"sqlite:///{path}"


def _version(python: Path | None) -> str:
    if python is None:
        return importlib.metadata.version("mlflow")
    (installed,) = python.parents[1].glob("lib/python*/site-packages/mlflow-*.dist-info")
    return installed.name.removesuffix(".dist-info").removeprefix("mlflow-")


def _migrate(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent)).engine.dispose()


if __name__ == "__main__":
    _migrate(Path(sys.argv[1]))
