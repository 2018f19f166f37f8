"""How PostgreSQL compresses what the worker stores."""

from collections.abc import Callable

import psycopg
import pytest

from spanferry_worker.stages.trace import AssembledTrace
from tests.services.postgres import PostgresServer
from tests.sinks.conftest import OpenSink
from tests.sinks.stores import ids, span, trace

pytestmark = pytest.mark.mlflow

LONG = b'"' + b"a sentence that comes again and again " * 300 + b'"'
KINDS = "SELECT DISTINCT pg_column_compression(content) FROM spans"
CAN = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"


@pytest.fixture
def uri(postgres_template: Callable[[], str]) -> str:
    """Of a database of the test's own."""
    return postgres_template()


def _long() -> AssembledTrace:
    return trace([span(*ids(1), attributes={"mlflow.spanInputs": LONG})])


def _one(uri: str, query: str) -> object:
    with psycopg.connect(uri.replace("+psycopg", "")) as raw:
        (row,) = raw.execute(query.encode()).fetchall()
        return row[0]


async def test_large_texts_are_compressed_by_lz4_where_the_server_can(
    uri: str, opened: OpenSink
) -> None:
    sink = await opened(uri)
    await sink.write([_long()])
    assert _one(uri, KINDS) == ("lz4" if _one(uri, CAN) else "pglz")
    assert LONG.decode().strip('"') in str(_one(uri, "SELECT content FROM spans"))


async def test_what_a_database_says_itself_stands(
    uri: str, opened: OpenSink, postgres: PostgresServer
) -> None:
    name = uri.rpartition("/")[2]
    with psycopg.connect(postgres.new_database().replace("+psycopg", ""), autocommit=True) as raw:
        raw.execute(f"ALTER DATABASE {name} SET default_toast_compression = 'pglz'".encode())
    sink = await opened(uri)
    await sink.write([_long()])
    assert _one(uri, KINDS) == "pglz"


async def test_a_connection_of_the_pool_is_left_as_it_was(uri: str, opened: OpenSink) -> None:
    sink = await opened(uri)
    await sink.write([_long()])
    assert sink._backend is not None
    with sink._backend.store.engine.connect() as connection:
        found = connection.exec_driver_sql("SHOW default_toast_compression").scalar()
    assert found == "pglz"
