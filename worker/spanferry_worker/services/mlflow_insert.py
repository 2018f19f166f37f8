"""Many rows into one table, by the fastest way that a database and its driver have."""

import io
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final, NamedTuple, Protocol

import sqlalchemy as sa
import sqlalchemy.exc

from spanferry_worker.services import mlflow_mysql as mysql
from spanferry_worker.services.mlflow_copy_text import copy_text

__all__ = ["Insert", "Table", "insert_for"]

STATEMENT_BYTES: Final = 1_000_000
"""Rows of one INSERT for MySQL: more is not faster. A longer row has a statement of its own."""
COPY_BYTES: Final = 128 * 1024
"""What psycopg2 reads at once of the text that it sends."""
STATEMENT_ROWS: Final = 1024
"""Rows of one INSERT for SQLite, as far as it takes so many values in one."""
_UTF8: Final = frozenset({"utf8mb4", "utf8mb3", "utf8"})
_TYPES: Final = sa.text(
    "SELECT attname, atttypid FROM pg_attribute "
    "WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 AND NOT attisdropped"
)
"""By name, as PostgreSQL numbers types."""
_INT4: Final = 23
_INT4_MIN: Final = -(2**31)
_INT4_MAX: Final = 2**31 - 1
_NOT_OF_ITS_TYPE: Final = (AttributeError, OverflowError, TypeError, ValueError)
"""What psycopg raises for a value that its column cannot hold."""
_BYTEA: Final = 17
"""As which a text in UTF-8 is sent as it is."""
Rows = Sequence[tuple[Any, ...]]


class Table(NamedTuple):
    """One of MLflow's tables, and which of its columns are written."""

    table: sa.Table
    columns: tuple[str, ...]
    encoded: frozenset[str] = frozenset()
    """Columns whose texts come in UTF-8, which may be large."""

    def decoded(self, rows: Rows) -> Rows:
        """With such texts as any other."""
        places = [place for place, column in enumerate(self.columns) if column in self.encoded]
        return [_decoded(row, places) for row in rows] if places else rows


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
        case "postgresql", "psycopg2":
            return _CopyText(one, dialect)
        case mysql.NAME, "pymysql":
            return _ManyRows(one, dialect)
        case "sqlite", _:
            return _ManyAtOnce(one, dialect)
        case _:
            return _ExecuteMany(one, dialect)


class _ExecuteMany:
    """By the driver. Those of MySQL and MariaDB make INSERTs of many rows of it."""

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        mark = {"qmark": "?", "format": "%s", "pyformat": "%s"}.get(dialect.paramstyle, "?")
        marks = ", ".join([mark] * len(one.columns))
        self._statement = f"{_into(one, dialect)} VALUES ({marks})"
        self._decoded = one.decoded

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        connection.exec_driver_sql(self._statement, list(self._decoded(rows)))


class _ManyAtOnce:
    """INSERTs of many rows for SQLite.

    Python's driver lets other threads run while a statement does, and has to wait for them after each:
    with a statement a row a writer does little but wait, as long as another thread makes rows. The
    driver keeps the last 128 statements, of a megabyte each where they have a thousand rows; so that
    few are enough they have certain numbers of rows, of which the last ones are empty and left out.
    """

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        self._head = f"{_into(one, dialect)} SELECT * FROM (VALUES "  # noqa: S608 - columns of the model
        self._marks = f"({', '.join('?' * len(one.columns))})"
        self._columns = len(one.columns)
        self._decoded = one.decoded

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        raw: Any = connection.connection.driver_connection
        values_max = raw.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - 1
        rows_max = min(STATEMENT_ROWS, values_max // self._columns)
        rows = self._decoded(rows)
        for at in range(0, len(rows), rows_max):
            some = rows[at : at + rows_max]
            size = min(_rounded_up(len(some)), rows_max)
            statement = f"{self._head}{', '.join([self._marks] * size)}) LIMIT ?"
            empty = repeat(None, (size - len(some)) * self._columns)
            values = (*chain.from_iterable(some), *empty, len(some))
            connection.exec_driver_sql(statement, values)


def _rounded_up(count: int) -> int:
    """To one of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: by less than half as much again."""
    power = 1 << (count - 1).bit_length()
    three_quarters = power * 3 // 4
    return three_quarters if count <= three_quarters else power


class _Copy:
    """PostgreSQL's COPY, in its binary form: text takes the client half as long again, and the server a
    twentieth."""

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        into = _into(one, dialect).replace("INSERT INTO", "COPY", 1)
        self._statement = f"{into} FROM STDIN (FORMAT BINARY)"
        self._columns = one.columns
        self._encoded = one.encoded
        self._name = dialect.identifier_preparer.format_table(one.table)
        self._types: list[int] = []
        self._otherwise = _ExecuteMany(one, dialect)

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        raw: Any = connection.connection.driver_connection
        if raw.info.encoding != "utf-8":  # what is encoded already would be read in that one
            self._otherwise.write(connection, rows)
            return
        if not self._types:
            self._types = self._asked_types(connection)
        try:
            self._check(rows)
            with raw.cursor() as cursor, cursor.copy(self._statement) as copy:
                copy.set_types(self._types)
                for row in rows:
                    copy.write_row(row)
        except _driver_error(connection) as error:
            raise _wrapped(error, self._statement, connection) from error
        except _NOT_OF_ITS_TYPE as error:
            raise sqlalchemy.exc.DataError(self._statement, None, error) from error

    def _check(self, rows: Rows) -> None:
        """psycopg cuts the upper bits of a number that is too large for four bytes."""
        for place, of in enumerate(self._types):
            if of == _INT4 and not all(map(_fits, {row[place] for row in rows})):
                raise OverflowError(
                    f"a number is too large for {self._name}.{self._columns[place]}"
                )

    def _asked_types(self, connection: sa.Connection) -> list[int]:
        """Of the columns as they are: a database that began with an older MLflow may have others than
        a new one."""
        types = {row[0]: row[1] for row in connection.execute(_TYPES, {"name": self._name})}
        return [_BYTEA if column in self._encoded else types[column] for column in self._columns]


def _decoded(row: tuple[Any, ...], places: Sequence[int]) -> tuple[Any, ...]:
    values = list(row)
    for place in places:
        values[place] = values[place].decode("utf-8", "surrogatepass")
    return tuple(values)


def _fits(value: int | None) -> bool:
    return value is None or _INT4_MIN <= value <= _INT4_MAX


class _CopyText:
    """COPY's text form, for psycopg2, which knows no other; its `executemany` asks the server once for
    each row."""

    def __init__(self, one: Table, dialect: sa.Dialect) -> None:
        self._statement = f"{_into(one, dialect).replace('INSERT INTO', 'COPY', 1)} FROM STDIN"
        self._otherwise = _ExecuteMany(one, dialect)

    def write(self, connection: sa.Connection, rows: Rows) -> None:
        raw: Any = connection.connection.driver_connection
        if raw.encoding != "UTF8":
            self._otherwise.write(connection, rows)
            return
        try:
            text = io.BytesIO(copy_text(rows))
            with raw.cursor() as cursor:
                cursor.copy_expert(self._statement, text, COPY_BYTES)
        except _driver_error(connection) as error:
            raise _wrapped(error, self._statement, connection) from error
        except KeyError as error:
            raise sqlalchemy.exc.DataError(self._statement, None, error) from error


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
