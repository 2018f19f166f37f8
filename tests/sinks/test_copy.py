"""COPY, in binary by psycopg, as text by psycopg2: types are the table's, a misfit is told as any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import sqlalchemy as sa
import sqlalchemy.exc

from spanferry_worker.services.mlflow_insert import Table, insert_for
from tests.services.postgres import PostgresServer

COLUMNS = {"t": sa.Text, "i": sa.Integer, "b": sa.BigInteger, "f": sa.Float, "v": sa.Boolean}
ROWS: list[tuple[Any, ...]] = [
    ("", 0, 2**63 - 1, 0.1, True),
    ("\\N\t\n\r\\ ä€😀\x01\x7f", -(2**31), -(2**63), 1e-300, False),
    (None, None, None, None, None),
    ("x" * 100_000, 2**31 - 1, 0, float("inf"), True),
]


@pytest.fixture(scope="module", params=["psycopg", "psycopg2"])
def engine(postgres: PostgresServer, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    uri = postgres.new_database().replace("+psycopg", f"+{request.param}")
    engine = sa.create_engine(uri)
    yield engine
    engine.dispose()


@pytest.fixture
def table(engine: sa.Engine) -> Iterator[sa.Table]:
    table = sa.Table("odd", sa.MetaData(), *(sa.Column(*one) for one in COLUMNS.items()))
    table.create(engine)
    yield table
    table.drop(engine)


def test_values_come_back(engine: sa.Engine, table: sa.Table) -> None:
    with engine.begin() as connection:
        insert_for(Table(table, tuple(COLUMNS)), engine.dialect).write(connection, ROWS)
        assert [tuple(row) for row in connection.execute(sa.select(table))] == ROWS


def test_psycopg2_asks_the_server_once_for_many_rows(postgres: PostgresServer) -> None:
    asked: list[str] = []

    class Counting(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's
            asked.append("execute")
            super().execute(query, vars)

        def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
            asked.append("copy")
            super().copy_expert(sql, file, size)

    uri = postgres.new_database().replace("+psycopg", "+psycopg2")
    engine = sa.create_engine(uri, connect_args={"cursor_factory": Counting})
    table = sa.Table("many", sa.MetaData(), sa.Column("t", sa.Text), sa.Column("i", sa.Integer))
    table.create(engine)
    with engine.begin() as connection:
        asked.clear()
        rows = [(f"text {number}", number) for number in range(5_000)]
        insert_for(Table(table, ("t", "i")), engine.dialect).write(connection, rows)
        assert asked == ["copy"]
        found = connection.execute(sa.select(table).order_by(table.c.i))
        assert [tuple(row) for row in found] == rows
    engine.dispose()


def test_the_table_s_own_types_count(engine: sa.Engine, table: sa.Table) -> None:
    """A database that has been migrated may have others than MLflow's models say."""
    changes = ("t TYPE varchar(200000)", "i TYPE bigint", "b TYPE numeric", "f TYPE real")
    rows = [("a", 1, 2, 3.5, True), (None, 2**40, None, None, None)]
    with engine.begin() as connection:
        for change in changes:
            connection.execute(sa.text(f"ALTER TABLE odd ALTER COLUMN {change}"))
        insert_for(Table(table, tuple(COLUMNS)), engine.dialect).write(connection, rows)
        found = connection.execute(sa.text("SELECT * FROM odd"))
        assert [tuple(row) for row in found] == rows


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_texts_in_utf_8_are_texts(
    kind: str, engine: sa.Engine, table: sa.Table, tmp_path: Path
) -> None:
    columns, encoded = ("t", "i"), frozenset({"t"})
    other = engine if kind == "postgresql" else sa.create_engine(f"sqlite:///{tmp_path}/odd.db")
    table.create(other, checkfirst=True)
    rows = [(text, number) for number, (text, *_) in enumerate(ROWS) if text is not None]
    with other.begin() as connection:
        insert = insert_for(Table(table, columns, encoded), other.dialect)
        insert.write(connection, [(text.encode(), number) for text, number in rows])
        found = connection.execute(sa.select(table.c.t, table.c.i).order_by(table.c.i))
        assert [tuple(row) for row in found] == rows
    if kind != "postgresql":
        other.dispose()


def test_a_connection_in_another_encoding_stores_the_same(
    engine: sa.Engine, table: sa.Table
) -> None:
    other = sa.create_engine(engine.url, connect_args={"client_encoding": "latin1"})
    with other.begin() as connection:
        insert = insert_for(Table(table, ("t", "i"), frozenset({"t"})), other.dialect)
        insert.write(connection, [("für".encode(), 1)])
    other.dispose()
    with engine.connect() as connection:
        assert connection.execute(sa.select(table.c.t)).scalar_one() == "für"


def test_what_is_no_utf_8_is_the_data_s_fault(engine: sa.Engine, table: sa.Table) -> None:
    """A lone surrogate, which MLflow's translation may make of an escape."""
    insert = insert_for(Table(table, ("t",), frozenset({"t"})), engine.dialect)
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.DataError):
        insert.write(connection, [("\ud800".encode("utf-8", "surrogatepass"),)])


@pytest.mark.parametrize(
    "row",
    [
        ("x", 2**31, 0, 0.0, True),
        ("x", 0, 2**63, 0.0, True),
        ("x", "one", 0, 0.0, True),
        (7, 0, 0, 0.0, True),
        ("a\0b", 0, 0, 0.0, True),
    ],
)
def test_what_does_not_fit_is_the_data_s_fault(
    engine: sa.Engine, table: sa.Table, row: tuple[Any, ...]
) -> None:
    """MLflow's own code is asked then, and says what is wrong, trace by trace."""
    if engine.driver == "psycopg2" and row[0] == 7:
        row = (object(), *row[1:])  # a number is a text to COPY's own
    insert = insert_for(Table(table, tuple(COLUMNS)), engine.dialect)
    with engine.connect() as connection:
        with pytest.raises(sqlalchemy.exc.DataError), connection.begin():
            insert.write(connection, [ROWS[0], row])
        insert.write(connection, ROWS)
        count = sa.select(sa.func.count()).select_from(table)
        assert connection.execute(count).scalar() == len(ROWS)
