"""An SQLite file with MLflow's tables, made once: all of its migrations take seconds."""

import contextlib
import importlib.metadata
import shutil
import sqlite3
import tempfile
from pathlib import Path

__all__ = ["copy_tables"]

CACHE = Path(__file__).parents[2] / ".cache"


def copy_tables(path: Path, artifact_root: str) -> str:
    """Make `path` a database of the installed MLflow that nothing has been stored in: its URI.

    Traces of the default experiment keep their artifacts below `artifact_root`.
    """
    made = CACHE / f"mlflow-{importlib.metadata.version('mlflow')}-tables.db"
    if not made.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _migrate(Path(folder) / "mlflow.db")
            (Path(folder) / "mlflow.db").replace(made)  # another process may have been faster
    shutil.copyfile(made, path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        sql = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0"
        connection.execute(sql, (f"{artifact_root.rstrip('/')}/0",))
    return f"sqlite:///{path}"


def _migrate(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent)).engine.dispose()
