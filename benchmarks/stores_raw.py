"""The ceiling: rows that were made beforehand, by each database's own fastest way."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import psycopg
import pymysql
from sqlalchemy import make_url

from spanferry_worker.services.mlflow_insert import STATEMENT_ROWS
from spanferry_worker.services.mlflow_sink import CONCURRENCY

__all__ = ["RAW", "Prepared", "Raw", "Run", "in_threads", "raw_postgres_lz4"]

Prepared = Sequence[Any]
"""Batches: for each table its name and columns, and rows."""
Run = Callable[[], None]
"""Does what was prepared: this is what is timed."""
Raw = Callable[[str, Prepared, contextlib.ExitStack], Run]
"""Of a database's URI; what it opens, the stack closes."""

STATEMENT_BYTES = 1_000_000


def in_threads(work: Callable[[Any], None], shares: Sequence[Any]) -> None:
    """Returns when every thread has done its share."""
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(work, shares))


def raw_sqlite(uri: str, prepared: Prepared, stack: contextlib.ExitStack) -> Run:
    """INSERTs of many rows, whose texts and values were made before."""
    raw = sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=30)
    stack.callback(raw.close)
    raw.execute("PRAGMA foreign_keys = ON")
    batches = [
        [one for named, rows in batch for one in _many_at_once(*named, rows)] for batch in prepared
    ]

    def run() -> None:
        for batch in batches:
            with raw:
                for statement, values in batch:
                    raw.execute(statement, values)

    return run


def _many_at_once(
    name: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    marks = f"({', '.join('?' * len(columns))})"
    for at in range(0, len(rows), STATEMENT_ROWS):
        some = rows[at : at + STATEMENT_ROWS]
        yield (
            f"INSERT INTO {name} ({', '.join(columns)}) VALUES {', '.join([marks] * len(some))}",
            tuple(chain.from_iterable(some)),
        )


def raw_postgres(
    uri: str, prepared: Prepared, stack: contextlib.ExitStack, options: str = ""
) -> Run:
    """COPY of ready text. `options`: of the server, for these connections."""
    plain = uri.replace("+psycopg", "")
    blocks = [
        [
            (f"COPY {name} ({', '.join(columns)}) FROM STDIN", _copy_text(rows))
            for (name, columns), rows in batch
        ]
        for batch in prepared
    ]

    def copy_in(given: "tuple[psycopg.Connection[Any], list[Any]]") -> None:
        raw, some = given
        for batch in some:
            with raw.transaction(), raw.cursor() as cursor:
                for statement, block in batch:
                    with cursor.copy(statement) as copy:
                        copy.write(block)

    shares = [
        (stack.enter_context(psycopg.connect(plain, options=options)), blocks[at::CONCURRENCY])
        for at in range(CONCURRENCY)
    ]
    return lambda: in_threads(copy_in, shares)


def raw_postgres_lz4(uri: str, prepared: Prepared, stack: contextlib.ExitStack) -> Run:
    """The same, with large texts compressed by LZ4, as the worker has it."""
    return raw_postgres(uri, prepared, stack, "-c default_toast_compression=lz4")


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _copy_text(rows: Sequence[tuple[Any, ...]]) -> bytes:
    lines = (
        "\t".join("\\N" if value is None else str(value).translate(_ESCAPES) for value in row)
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines).encode()


def raw_mariadb(uri: str, prepared: Prepared, stack: contextlib.ExitStack) -> Run:
    """INSERTs of many rows of ready text."""
    url = make_url(uri)
    connections = [
        stack.enter_context(
            pymysql.connect(
                host=url.host, port=url.port or 0, user=url.username, database=url.database
            )
        )
        for _ in range(CONCURRENCY)
    ]
    batches = [
        [one for named, rows in batch for one in _statements(connections[0], *named, rows)]
        for batch in prepared
    ]

    def insert(given: "tuple[pymysql.Connection[Any], list[list[bytes]]]") -> None:
        raw, some = given
        with raw.cursor() as cursor:
            for batch in some:
                for statement in batch:
                    cursor.execute(statement)
                raw.commit()

    shares = [(raw, batches[at::CONCURRENCY]) for at, raw in enumerate(connections)]
    return lambda: in_threads(insert, shares)


def _statements(
    raw: Any, name: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> Iterator[bytes]:
    head = f"INSERT INTO {name} ({', '.join(f'`{column}`' for column in columns)}) VALUES ".encode()
    marks = f"({','.join(['%s'] * len(columns))})"
    some: list[bytes] = []
    total = 0
    for row in rows:
        text = raw.cursor().mogrify(marks, row).encode()
        if some and total + len(text) > STATEMENT_BYTES:
            yield head + b",".join(some)
            some, total = [], 0
        some.append(text)
        total += len(text)
    yield head + b",".join(some)


RAW: dict[str, Raw] = {
    "PostgreSQL": raw_postgres,
    "SQLite": raw_sqlite,
    "MariaDB": raw_mariadb,
}
