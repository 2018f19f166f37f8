"""MLflow's databases into which workers write straight, beside the server: the same topic once more."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tests.services.mariadb import MariaDbServer
from tests.services.mariadb_tables import TableMaker
from tests.services.mlflow_tables import copy_tables
from tests.services.postgres import PostgresServer
from tests.services.worker import SpanferryWorker

__all__ = ["DATABASES", "SERVED", "Database", "copy_experiments", "make_databases", "working_on"]

SERVED = "mlflow-artifacts:/"
"""Where a server's experiments keep their files."""
DATABASES = ("sqlite", "postgres", "mariadb")


class Database(NamedTuple):
    """One with MLflow's tables in which no trace is, and a folder for files."""

    name: str
    uri: str
    artifacts: Path


def make_databases(
    postgres: PostgresServer, mariadb: MariaDbServer, folder: Path
) -> tuple[str, list[Database]]:
    """One for a tracking server, in PostgreSQL, and one of each kind for workers.

    MLflow's migrations take seconds: those of PostgreSQL are done once for both of its databases.
    """
    served = postgres.new_database()
    SqlAlchemyStore(served, SERVED).engine.dispose()
    uris = {
        "sqlite": copy_tables(folder / "mlflow.db", SERVED),
        "postgres": _twin(served),
        "mariadb": TableMaker(mariadb, SERVED).new(),
    }
    return served, [Database(name, uris[name], folder / name) for name in DATABASES]


def _twin(uri: str) -> str:
    """A copy of a PostgreSQL database that nobody uses."""
    server, _, name = uri.rpartition("/")
    address = f"{server.replace('+psycopg', '')}/postgres"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}_twin TEMPLATE {name}".encode())
    return f"{uri}_twin"


def copy_experiments(served: str, databases: Sequence[Database]) -> None:
    """The server's, with the ids by which apps name them; files go into the database's folder."""
    table = SqlExperiment.__table__
    source = sa.create_engine(served)
    with source.connect() as connection:
        found = [dict(row) for row in connection.execute(sa.select(table)).mappings()]
    source.dispose()
    for one in databases:
        rows = [
            {**row, "artifact_location": f"{one.artifacts}/{row['experiment_id']}"} for row in found
        ]
        engine = sa.create_engine(one.uri)
        with engine.begin() as connection:
            for row in rows:
                if (
                    row["experiment_id"] == 0
                ):  # is there; MySQL would give the 0 a number of its own
                    connection.execute(sa.update(table).where(table.c.experiment_id == 0), row)
            connection.execute(sa.insert(table), [row for row in rows if row["experiment_id"]])
        engine.dispose()


@contextmanager
def working_on(
    databases: Sequence[Database], *, bootstrap_servers: str, topic: str, options: tuple[str, ...]
) -> Iterator[list[SpanferryWorker]]:
    """A worker of each database, in the order of these, that reads the topic from its start."""
    workers = [
        SpanferryWorker(
            bootstrap_servers=bootstrap_servers,
            topic=topic,
            tracking_uri=one.uri,
            group=f"{topic}-{one.name}",
            options=options,
            warm=True,
        )
        for one in databases
    ]
    with ExitStack() as stack:
        for worker in workers:
            stack.callback(worker.close)
            worker.start(ready=False)
        yield workers
