"""By which driver, and in which form, rows go into PostgreSQL fastest.

    python -m benchmarks.stores_drivers           in about two minutes
    python -m benchmarks.stores_drivers --quick   in half of one; figures not to be quoted

Method. A round gives every way in turn the rows of the same number of traces (five spans, 10 KB) that the
database has never seen, in an order that rotates; ratios are those of one round, and medians over rounds are
what to trust. Rows are tuples, as the worker's stages make them, before the clock starts; whatever a driver
or we make of them is timed. Batches are 200 traces, a transaction each, on four connections at once. The
database syncs to disk as in production and shares the machine's cores. The ways:

- raw: COPY of text that was made before the clock started: what the database itself takes.
- psycopg, write_row: psycopg 3 is given tuples and makes text of them.
- psycopg, text: text made in Python value by value, a block for each table.
- psycopg, text at once: the same block, with the escapes made in the whole of it.
- psycopg, binary: as write_row, in PostgreSQL's binary form.
- psycopg, packed: blocks in binary form, made in Python.
- asyncpg: `copy_records_to_table`, which is binary, on uvloop.

Results go to benchmarks/results/stores-drivers.json; docs/benchmarks-stores.md has a table of them.
"""

import argparse
import asyncio
import contextlib
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psycopg
import uvloop

from benchmarks.machine import conditions
from benchmarks.stores_document import DRIVERS
from benchmarks.stores_raw import Prepared, Run, in_threads
from benchmarks.stores_report import Result, Row
from benchmarks.stores_rounds import Case, Pids, measure
from benchmarks.stores_ways import Store
from spanferry_worker.services.mlflow_sink import CONCURRENCY
from tests.services.postgres import PostgresServer

__all__ = ["DRIVER_WAYS", "main"]

Rows = Sequence[tuple[Any, ...]]
Fill = Callable[[Any, Sequence[int], Rows], None]
"""Gives the rows of one table, whose columns have these types, to a COPY that has begun."""

TRACES = 1_600
ROUNDS = 9
BATCH = 200

_INT2, _INT4, _INT8 = (struct.Struct(form).pack for form in ("!h", "!i", "!q"))
_NUMBERS = {
    20: partial(struct.Struct("!iq").pack, 8),
    23: partial(struct.Struct("!ii").pack, 4),
    701: partial(struct.Struct("!id").pack, 8),
}
"""By PostgreSQL's number of their type: bigint, integer, double precision. All else is text."""
_NULL = _INT4(-1)
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def write_rows(copy: Any, _: Sequence[int], rows: Rows) -> None:
    """The driver makes text of each value."""
    for row in rows:
        copy.write_row(row)


def write_typed_rows(copy: Any, types: Sequence[int], rows: Rows) -> None:
    """The driver makes PostgreSQL's binary form of each value."""
    copy.set_types(types)
    for row in rows:
        copy.write_row(row)


def write_text(copy: Any, _: Sequence[int], rows: Rows) -> None:
    """One block of text, made value by value."""
    lines = ["\t".join([_text(value) for value in row]) for row in rows]
    copy.write("\n".join([*lines, ""]).encode())


def _text(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return (
            value.replace("\\", "\\\\")
            .replace("\n", "\\n")
            .replace("\r", "\\r")
            .replace("\t", "\\t")
        )
    return str(value)


def write_text_at_once(copy: Any, _: Sequence[int], rows: Rows) -> None:
    """The same block. What stands between values is made of NUL, which no text in PostgreSQL has."""
    lines = ["\0,".join(["\0N" if value is None else str(value) for value in row]) for row in rows]
    block = "\0;".join([*lines, ""]).encode()
    if block.count(b"\0") != sum(len(row) + row.count(None) for row in rows):
        raise ValueError("a value has a NUL")
    for mark, escaped in _ESCAPES:
        block = block.replace(mark, escaped)
    copy.write(block)


_ESCAPES = (
    (b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"), (b"\t", b"\\t"),
    (b"\0,", b"\t"), (b"\0;", b"\n"), (b"\0N", b"\\N"),
)  # fmt: skip


def write_packed(copy: Any, types: Sequence[int], rows: Rows) -> None:
    """One block in PostgreSQL's binary form."""
    makers = [_NUMBERS.get(one, _packed) for one in types]
    head = _INT2(len(types))
    parts = [_SIGNATURE]
    for row in rows:
        parts.append(head)
        parts += [
            _NULL if value is None else make(value) for make, value in zip(makers, row, strict=True)
        ]
    parts.append(_INT2(-1))
    copy.write(b"".join(parts))


def _packed(value: str) -> bytes:
    made = value.encode()
    return _INT4(len(made)) + made


def by_psycopg(
    fill: Fill, form: str, uri: str, prepared: Prepared, stack: contextlib.ExitStack
) -> Run:
    """In as many threads as the worker has, with a connection each."""
    connections = [stack.enter_context(psycopg.connect(_address(uri))) for _ in range(CONCURRENCY)]
    types = {
        name: _types(connections[0], name, columns)
        for batch in prepared for (name, columns), _ in batch
    }  # fmt: skip

    def copy_in(given: "tuple[psycopg.Connection[Any], list[Any]]") -> None:
        raw, some = given
        for batch in some:
            with raw.transaction(), raw.cursor() as cursor:
                for (name, columns), rows in batch:
                    statement: Any = f"COPY {name} ({', '.join(columns)}) FROM STDIN{form}"
                    with cursor.copy(statement) as copy:
                        fill(copy, types[name], rows)

    shares = [(raw, prepared[at::CONCURRENCY]) for at, raw in enumerate(connections)]
    return lambda: in_threads(copy_in, shares)


def _types(raw: "psycopg.Connection[Any]", name: str, columns: Sequence[str]) -> list[int]:
    statement: Any = f"SELECT {', '.join(columns)} FROM {name} LIMIT 0"
    found = raw.execute(statement).description or ()
    raw.commit()
    return [column.type_code for column in found]


def by_asyncpg(uri: str, prepared: Prepared, stack: contextlib.ExitStack) -> Run:
    """In one thread, on as many connections as the worker has."""
    loop = uvloop.new_event_loop()
    stack.callback(loop.close)
    connections = []
    for _ in range(CONCURRENCY):
        one = loop.run_until_complete(asyncpg.connect(_address(uri)))
        stack.callback(lambda raw=one: loop.run_until_complete(raw.close()))
        connections.append(one)

    async def copy_in(raw: Any, some: Prepared) -> None:
        for batch in some:
            async with raw.transaction():
                for (name, columns), rows in batch:
                    await raw.copy_records_to_table(name, records=rows, columns=columns)

    async def copy_all() -> None:
        await asyncio.gather(
            *(copy_in(raw, prepared[at::CONCURRENCY]) for at, raw in enumerate(connections))
        )

    return lambda: loop.run_until_complete(copy_all())


def _address(uri: str) -> str:
    return uri.replace("+psycopg", "")


_BINARY = " (FORMAT BINARY)"
DRIVER_WAYS: Mapping[str, Callable[[str, Prepared, contextlib.ExitStack], Run]] = {
    "psycopg, write_row": partial(by_psycopg, write_rows, ""),
    "psycopg, text": partial(by_psycopg, write_text, ""),
    "psycopg, text at once": partial(by_psycopg, write_text_at_once, ""),
    "psycopg, binary": partial(by_psycopg, write_typed_rows, _BINARY),
    "psycopg, packed": partial(by_psycopg, write_packed, _BINARY),
    "asyncpg": by_asyncpg,
}


def rounds(server: PostgresServer, case: Case) -> list[Row]:
    """Every way, and raw, into one database of the server's."""
    with contextlib.ExitStack() as stack:
        store = Store("PostgreSQL", server.new_database(), stack)
        for name, way in DRIVER_WAYS.items():
            store.ways[name] = partial(_prepare, store, way)
        return measure(case, [store], Pids(server.pid))


def _prepare(store: Store, way: Any, batches: Any, stack: contextlib.ExitStack) -> Run:
    run: Run = way(store.uri, store.prepared(batches), stack)
    return run


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        per_second = row.per_second
        yield (
            f"{row.way:24} {statistics.median(per_second):8.0f} traces/s "
            f"({min(per_second):.0f}-{max(per_second):.0f})  {statistics.median(row.of_raw):5.2f} of raw"
            f"  CPU {row.cpu_ms:6.3f} ms, database {row.database_cpu_ms or 0:6.3f} ms"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few traces")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    start = time.monotonic()
    result = Result(conditions("psycopg", "asyncpg", "uvloop"), given.quick)
    traces, times = (400, 2) if given.quick else (TRACES, ROUNDS)
    case = Case("10 KB", BATCH, dict.fromkeys(("raw", *DRIVER_WAYS), traces), times)
    with PostgresServer(durable=True) as server:
        result.rows = rounds(server, case)
    result.seconds = round(time.monotonic() - start, 1)
    print(*_lines(result.rows), sep="\n")
    out = given.out or DRIVERS.with_name("last.tmp.json" if given.quick else DRIVERS.name)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
