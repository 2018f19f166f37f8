"""The same traces by several ways, each behind an `mlflow server` of its own."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.stages.archive import ArchivePolicy
from tests.services.mariadb import MariaDbServer
from tests.services.mlflow import ONE_WRITE_A_TRACE, MlflowServer
from tests.services.mlflow_tables import copy_tables
from tests.services.postgres import PostgresServer
from tests.sinks.native_wire import EXPERIMENT, Recorded

__all__ = ["WAYS", "all_servers"]

WAYS = ("native", "sql", "postgres", "mariadb", "archive", "http")
"""MLflow's SDK; spanferry into SQLite, PostgreSQL, MariaDB, with spans in the archive, through a server."""


@contextlib.contextmanager
def all_servers(folder: Path) -> Iterator[tuple[dict[str, MlflowServer], list[Recorded]]]:
    """By way; and what was stored."""
    artifacts = str(folder / "artifacts")
    with contextlib.ExitStack() as stack:
        uris = {
            "postgres": stack.enter_context(PostgresServer()).new_database(),
            "mariadb": stack.enter_context(MariaDbServer()).new_database(),
        }
        for uri in uris.values():
            SqlAlchemyStore(uri, artifacts).engine.dispose()
        for way in set(WAYS) - uris.keys():
            uris[way] = copy_tables(folder / f"{way}.db", artifacts)
        recorded = _native(folder, uris["native"])
        for way in ("sql", "postgres", "mariadb"):
            asyncio.run(_store(uris[way], recorded))
        archive = ArchivePolicy(location=(folder / "archive").as_uri(), above_bytes=1)
        asyncio.run(_store(uris["archive"], recorded, archive))
        servers = {way: stack.enter_context(MlflowServer(uris[way])) for way in WAYS}
        asyncio.run(_store(servers["http"].uri, recorded))
        yield servers, recorded


def _native(folder: Path, uri: str) -> list[Recorded]:
    out = folder / "recorded"
    subprocess.run(
        [sys.executable, "-m", "tests.ui.programs", uri, str(folder / "artifacts"), str(out)],
        check=True,
        timeout=120,
        env={**os.environ, **ONE_WRITE_A_TRACE},
    )
    return msgspec.msgpack.decode(out.read_bytes(), type=list[Recorded])


async def _store(uri: str, recorded: list[Recorded], archive: ArchivePolicy | None = None) -> None:
    sink = open_sink(uri, default_experiment=EXPERIMENT, archive=archive)
    await sink.open()
    try:
        await sink.write([one.assembled() for one in recorded])
    finally:
        await sink.close()
