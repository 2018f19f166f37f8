"""Tracking URIs, with and without MLflow behind them."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spanferry_worker.doctor.findings import Finding, Level
from spanferry_worker.doctor.mlflow_checks import check_mlflow, server_address
from spanferry_worker.doctor.reach import Address
from spanferry_worker.settings import MlflowSettings
from spanferry_worker.stages.archive import ArchivePolicy
from tests.services.mlflow import MlflowServer
from tests.services.mlflow_tables import copy_tables

WEB_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


async def checked(uri: str, experiment: str = "Default", location: str = "") -> Finding:
    settings = MlflowSettings(tracking_uri=uri, experiment=experiment)
    (finding,) = await check_mlflow(settings, 5, archive=ArchivePolicy(location=location))
    return finding


@pytest.fixture
async def web_server() -> AsyncIterator[str]:
    """Something that speaks HTTP and is no MLflow."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await reader.readuntil(b"\r\n\r\n")  # a client that only connects sends nothing
                writer.write(WEB_PAGE)
                await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://mlflow:5000/x", Address("mlflow", 5000)),
        ("https://mlflow", Address("mlflow", 443)),
        ("postgresql+psycopg://a:b@db/mlflow", Address("db", 5432)),
        ("mysql://db:1/x", Address("db", 1)),
        ("sqlite:///mlflow.db", None),
        ("http://:80", None),
        ("http://mlflow:port", None),
        ("databricks", None),
        ("", None),
    ],
)
def test_where_a_tracking_uri_leads(uri: str, address: Address | None) -> None:
    assert server_address(uri) == address


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://no-such-host.invalid:5000", "not known here"),
        ("http://127.0.0.1:1", "nothing listens"),
        ("http://:80", "not an address"),
        ("postgresql://ann:pw@127.0.0.1:1/mlflow", "nothing listens"),
        ("file:///tmp/mlruns", "cannot hold traces"),
        ("databricks", "DATABRICKS_TOKEN"),
    ],
)
async def test_uris_that_cannot_work(uri: str, text: str) -> None:
    finding = await checked(uri)
    assert finding.level is Level.PROBLEM
    assert text in finding.text
    assert finding.remedy


async def test_a_web_server_that_is_no_mlflow(web_server: str) -> None:
    finding = await checked(web_server)
    assert finding.level is Level.PROBLEM
    assert "is not an MLflow server" in finding.text


async def test_an_empty_database_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    finding = await checked(f"sqlite:///{path}")
    assert finding.level is Level.NOTE
    assert "empty" in finding.text
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    database.close()


async def test_a_database_of_something_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    database.close()
    finding = await checked(f"sqlite:///{tmp_path}/other.db")
    assert finding.level is Level.PROBLEM
    assert "none of MLflow's" in finding.text


@pytest.mark.mlflow
async def test_mlflow_itself_by_server_and_by_database(mlflow_server: MlflowServer) -> None:
    for uri in (mlflow_server.uri, mlflow_server.backend_uri):
        finding = await checked(uri)
        assert finding.level is Level.GOOD, finding.text


@pytest.mark.mlflow
async def test_an_archive_that_answers(tmp_path: Path) -> None:
    uri = copy_tables(tmp_path / "mlflow.db", str(tmp_path))
    assert "the archive at" not in (await checked(uri)).text
    finding = await checked(uri, location=(tmp_path / "archive").as_uri())
    assert finding.level is Level.GOOD, finding.text
    assert finding.text.endswith(f"the archive at file://{tmp_path}/archive answers")
    assert not (tmp_path / "archive").exists(), "nothing is written"


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("file://{folder}/mlflow.db/traces", "it is no folder"),
        ("nowhere://ann:pa55word@x/y", "archive.location nowhere://x/y"),
    ],
)
async def test_an_archive_that_cannot_be_used(tmp_path: Path, location: str, text: str) -> None:
    uri = copy_tables(tmp_path / "mlflow.db", str(tmp_path))
    finding = await checked(uri, location=location.format(folder=tmp_path))
    assert finding.level is Level.PROBLEM
    assert text in finding.text
    assert "pa55word" not in finding.text
    assert finding.remedy


async def test_an_archive_is_not_for_workers_that_write_through_a_server(web_server: str) -> None:
    finding = await checked(web_server, location="file:///data/traces")
    assert finding.level is Level.PROBLEM
    assert "take it out of the settings" in finding.text


@pytest.mark.mlflow
async def test_a_deleted_experiment(mlflow_server: MlflowServer) -> None:
    await asyncio.to_thread(_delete_experiment, mlflow_server.uri, "doctor-deleted")
    finding = await checked(mlflow_server.uri, "doctor-deleted")
    assert finding.level is Level.PROBLEM
    assert "is deleted" in finding.text
    assert "restore" in finding.text


def _delete_experiment(uri: str, name: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment(name))
