"""One suite over every way into MLflow: its database (SQLite, PostgreSQL, MariaDB) and its server."""

import http.server
import itertools
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spanferry_worker.services.mlflow_sink import MlflowSink, open_sink
from tests.services.mariadb import MariaDbServer
from tests.services.mariadb_tables import TableMaker
from tests.services.mlflow import MlflowServer
from tests.services.mlflow_tables import copy_tables
from tests.services.postgres import PostgresServer
from tests.sinks.gateway import Gateway, gateway

OpenSink = Callable[..., Awaitable[MlflowSink]]
DATABASES = ("sqlite", "postgres", "mariadb")

everywhere = pytest.mark.parametrize("place", [*DATABASES, "server"], indirect=True)
every_database = pytest.mark.parametrize("database", DATABASES, indirect=True)
"""Marks with MariaDB, for what a database can do in its own way."""


class Place:
    """Where a sink writes, and MLflow's own store to look at what is there."""

    def __init__(self, kind: str, uri: str, database: str, artifacts: Path) -> None:
        self.kind = kind
        self.uri = uri
        self.database = database
        self.artifacts = artifacts
        self._store: Any = None

    @property
    def store(self) -> Any:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        if self._store is None:
            self._store = SqlAlchemyStore(self.database, str(self.artifacts))
        return self._store

    def trace(self, trace_id: bytes) -> Any:
        """As MLflow's API returns it: only if all of its spans are there."""
        found = self.store.batch_get_traces(["tr-" + trace_id.hex()])
        return found[0] if found else None

    def info(self, trace_id: bytes) -> Any:
        return self.store.get_trace_info("tr-" + trace_id.hex())

    def close(self) -> None:
        if self._store is not None:
            self._store.engine.dispose()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    copy_tables(path, str(path.parent))
    return path


@pytest.fixture(scope="session")
def postgres_template(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Makes new databases with MLflow's tables."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("template")
    template = postgres.new_database()
    SqlAlchemyStore(template, str(folder)).engine.dispose()
    server, _, name = template.rpartition("/")
    numbers = itertools.count(1)

    def new() -> str:
        copy = f"copy{next(numbers)}"
        address = f"{server.replace('+psycopg', '')}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {copy} TEMPLATE {name}".encode())
        return f"{server}/{copy}"

    return new


@pytest.fixture(scope="session")
def mariadb_template(
    mariadb: MariaDbServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Makes new databases with MLflow's tables."""
    return TableMaker(mariadb, str(tmp_path_factory.mktemp("template"))).new


@pytest.fixture(params=["sqlite", "postgres", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each test in each place; the server is shared, the databases are the test's own."""
    made = make_place(request.param, request, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """As `place`, without the server: a database of the test's own."""
    made = make_place(request.param, request, tmp_path)
    yield made
    made.close()


def make_place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    if kind == "sqlite":
        copy = folder / "mlflow.db"
        shutil.copyfile(request.getfixturevalue("template"), copy)
        return Place(kind, f"sqlite:///{copy}", f"sqlite:///{copy}", folder / "artifacts")
    if kind in {"postgres", "mariadb"}:
        uri = request.getfixturevalue(f"{kind}_template")()
        return Place(kind, uri, uri, folder / "artifacts")
    server = request.getfixturevalue("mlflow_server")
    return Place(kind, server.uri, server.backend_uri, folder / "artifacts")


@pytest.fixture
async def opened() -> AsyncIterator[OpenSink]:
    """Opens sinks that are closed after the test."""
    sinks: list[MlflowSink] = []

    async def open_one(uri: str, **options: Any) -> MlflowSink:
        sink = open_sink(uri, **{"default_experiment": "default of the test", **options})
        sinks.append(sink)
        await sink.open()
        return sink

    yield open_one
    for sink in sinks:
        await sink.close()


@pytest.fixture
def way(mlflow_server: MlflowServer) -> Iterator[Gateway]:
    """What stands in front of the server and may answer in its place."""
    with gateway(mlflow_server.uri) as one:
        yield one


@pytest.fixture
def stored(mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[Place]:
    """What the server behind it has."""
    place = Place("server", mlflow_server.uri, mlflow_server.backend_uri, tmp_path)
    yield place
    place.close()


@pytest.fixture
def other_server() -> Iterator[Callable[[int, str], str]]:
    """An HTTP server that is not MLflow: answers everything with one status and body."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
