"""INSERTs of many rows into SQLite: whatever their number, each row comes back as it was given."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.exc

from spanferry_worker.services.mlflow_insert import STATEMENT_ROWS, Table, insert_for

COLUMNS = ("i", "t", "f")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/some.db")
    yield engine
    engine.dispose()


@pytest.fixture
def table(engine: sa.Engine) -> sa.Table:
    columns = sa.Column("i", sa.BigInteger, primary_key=True), sa.Column("t", sa.Text)
    table = sa.Table("some", sa.MetaData(), *columns, sa.Column("f", sa.Float))
    table.create(engine)
    return table


def _rows(count: int) -> list[tuple[Any, ...]]:
    texts = ("", None, "ä€😀\x01", "x" * 1000)
    return [(number, texts[number % 4], number / 7) for number in range(count)]


def _statements(engine: sa.Engine) -> list[str]:
    """Of INSERTs, as they come."""
    heard: list[str] = []
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda *given: heard.append(given[2]) if given[2].startswith("INSERT") else None,
    )
    return heard


@pytest.mark.parametrize(
    "count", [1, 2, 3, STATEMENT_ROWS - 1, STATEMENT_ROWS, 2 * STATEMENT_ROWS + 5]
)
def test_every_row_comes_back(engine: sa.Engine, table: sa.Table, count: int) -> None:
    statements = _statements(engine)
    with engine.begin() as connection:
        insert_for(Table(table, COLUMNS), engine.dialect).write(connection, _rows(count))
        found = connection.execute(sa.select(table).order_by(table.c.i))
        assert [tuple(row) for row in found] == _rows(count)
    assert len(statements) == -(-count // STATEMENT_ROWS)


def test_few_statements_serve_all_numbers_of_rows(engine: sa.Engine, table: sa.Table) -> None:
    """The driver keeps them, and a large one takes a megabyte."""
    insert = insert_for(Table(table, COLUMNS), engine.dialect)
    statements = _statements(engine)
    for count in range(1, STATEMENT_ROWS + 1, 7):
        with engine.connect() as connection:
            insert.write(connection, _rows(count))
            connection.rollback()
    assert len(statements) > 100
    assert len(set(statements)) <= 2 * STATEMENT_ROWS.bit_length()


def test_a_library_that_takes_fewer_values(engine: sa.Engine, table: sa.Table) -> None:
    """As those before 3.32, and those that were built so."""
    statements = _statements(engine)
    with engine.begin() as connection:
        raw: Any = connection.connection.driver_connection
        raw.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 20)
        insert_for(Table(table, COLUMNS), engine.dialect).write(connection, _rows(50))
        found = connection.execute(sa.select(table).order_by(table.c.i))
        assert [tuple(row) for row in found] == _rows(50)
    assert max(text.count("?") for text in statements) <= 20
    assert len(statements) == 9


def test_what_is_there_already_is_said(engine: sa.Engine, table: sa.Table) -> None:
    insert = insert_for(Table(table, COLUMNS), engine.dialect)
    with engine.begin() as connection:
        insert.write(connection, _rows(10))
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.IntegrityError):
        insert.write(connection, _rows(STATEMENT_ROWS))


def test_a_number_that_does_not_fit(engine: sa.Engine, table: sa.Table) -> None:
    """SQLAlchemy lets the driver's error through, which is no database's."""
    insert = insert_for(Table(table, COLUMNS), engine.dialect)
    with engine.connect() as connection, pytest.raises(OverflowError):
        insert.write(connection, [*_rows(3), (2**63, "x", 0.0)])
