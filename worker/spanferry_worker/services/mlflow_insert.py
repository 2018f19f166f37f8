"""Many rows into one table, by the fastest way that a database and its driver have."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import sqlalchemy as sa
import sqlalchemy.exc

from spanferry_worker.services import mlflow_mysql as mysql

__all__ = ["Insert", "Table", "insert_for"]

STATEMENT_BYTES: Final = 1_000_000
"""Rows of one INSERT for MySQL: more is not faster. A longer row has a statement of its own."""
_UTF8: Final = frozenset({"utf8mb4", "utf8mb3", "utf8"})
Rows = Sequence[tuple[Any, ...]]


class Table(NamedTuple):
    """One of MLflow's tables, and which of its columns are written."""

    table: sa.Table
    columns: tuple[str, ...]


class Insert(Protocol):
    """Writes rows within the transaction of a connection. Used by several threads at once."""

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        """Raises SQLAlchemy's errors; PoisonError for a row that can never be written."""
        ...


def insert_for(one: Table, dialect: sa.Dialect) -> Insert:
    """The way into one table."""
    match dialect.name, dialect.driver:
        case "postgresql", "psycopg":
            return _Copy(one, dialect)
        case mysql.NAME, "pymysql":
            return _ManyRows(one, dialect)
        case _:
            return _ExecuteMany(one, dialect)


class _ExecuteMany:
    """By the driver. Those of MySQL and MariaDB make INSERTs of many rows of it."""

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        mark = {"qmark": "?", "format": "%s", "pyformat": "%s"}.get(dialect.paramstyle, "?")
        marks = ", ".join([mark] * len(one.columns))
        self._statement = f"{_into(one, dialect)} VALUES ({marks})"

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        connection.exec_driver_sql(self._statement, list(rows))


class _Copy:
    """PostgreSQL's COPY."""

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        self._statement = f"{_into(one, dialect).replace('INSERT INTO', 'COPY', 1)} FROM STDIN"

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        raw: Any = connection.connection.driver_connection
        try:
            with raw.cursor() as cursor, cursor.copy(self._statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except _driver_error(connection) as error:
            raise _wrapped(error, self._statement, connection) from error


class _ManyRows:
    """INSERTs of many rows for MySQL and MariaDB, as text of our own: PyMySQL's takes longer to write
    than the server to read."""

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        self._table = one.table.name
        self._head = f"{_into(one, dialect)} VALUES "
        self._otherwise = _ExecuteMany(one, dialect)
        self._packet_bytes = 0

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        raw: Any = connection.connection.driver_connection
        if raw.charset not in _UTF8:  # a backslash may be half of a character there
            self._otherwise.write(connection, rows)
            return
        try:
            with raw.cursor() as cursor:
                for statement in self._statements(connection, mysql.Literals(raw).rows(rows)):
                    cursor.execute(statement)
        except _driver_error(connection) as error:
            raise _wrapped(error, self._head, connection) from error

    def _statements(self, connection: sa.Connection, rows: Iterable[bytes]) -> Iterator[bytes]:
        head = self._head.encode()
        some: list[bytes] = []
        total = 0
        for row in rows:
            if some and total + len(row) > STATEMENT_BYTES:
                yield head + b",".join(some)
                some, total = [], 0
            if len(row) > STATEMENT_BYTES:
                self._check(connection, len(head) + len(row))
            some.append(row)
            total += len(row) + 1
        if some:
            yield head + b",".join(some)

    def _check(self, connection: sa.Connection, size: int) -> None:
        """The server would hang up, which looks as if it were away."""
        if size >= self._packet_bytes:
            self._packet_bytes = mysql.packet_bytes(connection)  # it may have been raised
        if size >= self._packet_bytes:
            raise mysql.too_large(f"a row of {self._table}", size, self._packet_bytes)


def _into(one: Table, dialect: sa.Dialect) -> str:
    quote = dialect.identifier_preparer
    names = ", ".join(quote.quote(name) for name in one.columns)
    return f"INSERT INTO {quote.format_table(one.table)} ({names})"


def _driver_error(connection: sa.Connection) -> type[Exception]:
    error: type[Exception] = connection.dialect.loaded_dbapi.Error
    return error


def _wrapped(error: Exception, statement: str, connection: sa.Connection) -> Exception:
    """A driver's error as SQLAlchemy raises it, which has not seen it."""
    dialect = connection.dialect
    if dialect.is_disconnect(error, connection.connection, None):  # type: ignore[arg-type]
        connection.invalidate(error)
    made: Exception = sqlalchemy.exc.DBAPIError.instance(
        statement, None, error, _driver_error(connection), dialect=dialect
    )
    return made
