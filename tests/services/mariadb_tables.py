"""Databases with MLflow's tables in MariaDB, made by its migrations once: these take seconds."""

import fcntl
import importlib.metadata
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CLIENT
from sqlalchemy import make_url

from tests.services.mariadb import MariaDbServer

__all__ = ["TableMaker"]

CACHE = Path(__file__).parents[2] / ".cache"
MODES = "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0"


_NUMBERS = itertools.count(1)
"""Of this process: makers of one server must not meet."""


class TableMaker:
    """Makes databases of the installed MLflow, in which nothing has been stored."""

    def __init__(self, server: MariaDbServer, artifact_root: str) -> None:
        """Traces of the default experiment keep their artifacts below `artifact_root`."""
        self._server = server
        self._sql = ";\n".join(
            [
                *_cached(server),
                f"UPDATE experiments SET artifact_location = '{artifact_root}/0'",
            ]
        )

    def new(self) -> str:
        """A new database's SQLAlchemy URL."""
        name = f"copy{next(_NUMBERS)}"
        self._server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        uri = self._server.uri(name)
        with _connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(MODES)
            cursor.execute(self._sql)
            while cursor.nextset():
                pass
            connection.commit()
        return uri


def _cached(server: MariaDbServer) -> list[str]:
    made = CACHE / f"mlflow-{importlib.metadata.version('mlflow')}-mariadb.json"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "mariadb-tables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            statements = _statements(_migrated(server))
            made.with_suffix(".partial").write_text(json.dumps(statements))
            made.with_suffix(".partial").rename(made)
    statements: list[str] = json.loads(made.read_text())
    return statements


def _migrated(server: MariaDbServer) -> str:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = server.new_database()
    SqlAlchemyStore(uri, "/artifacts").engine.dispose()
    return uri


def _statements(uri: str) -> list[str]:
    """What makes the same tables, with the rows that are in them."""
    statements: list[str] = []
    with _connect(uri) as connection, connection.cursor() as cursor:
        for (table,) in _rows(cursor, "SHOW TABLES"):
            statements.append(_rows(cursor, f"SHOW CREATE TABLE `{table}`")[0][1])
            rows = _rows(cursor, f"SELECT * FROM `{table}`")
            marks = ", ".join(["%s"] * len(rows[0])) if rows else ""
            statements += [
                cursor.mogrify(f"INSERT INTO `{table}` VALUES ({marks})", row) for row in rows
            ]
    return statements


def _rows(cursor: Any, query: str) -> Sequence[Sequence[Any]]:
    cursor.execute(query)
    rows: Sequence[Sequence[Any]] = cursor.fetchall()
    return rows


def _connect(uri: str) -> "pymysql.Connection[Any]":
    url = make_url(uri)
    return pymysql.connect(
        host=url.host,
        port=url.port or 0,
        user=url.username,
        database=url.database,
        client_flag=CLIENT.MULTI_STATEMENTS,
    )
