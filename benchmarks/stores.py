"""How many traces a second each way into MLflow takes, beside the database's own ceiling.

    python -m benchmarks.stores               PostgreSQL, SQLite and MariaDB, every way, in an hour
    python -m benchmarks.stores --quick       in three; figures not to be quoted
    python -m benchmarks.stores --filled 0    without tables that are full (a million traces by default)
    python -m benchmarks.stores --end-to-end  instead of all that: from Kafka through a worker into PostgreSQL

Method. A round gives every way in turn the same number of traces that it has never seen, in an order
that rotates; ratios are those of one round, and medians over rounds are what to trust. All databases
sync to disk as in production. The ways:

- raw: rows that were made beforehand, put into the four tables that a trace without feedback has, by COPY
  of ready text (PostgreSQL) or INSERTs of many rows (SQLite, MariaDB), a transaction a batch: no writer
  can be faster on this machine.
- raw, LZ4: the same with large texts compressed as the worker has them in PostgreSQL, not by its default.
- spanferry: the worker's sink, from assembled traces on: look up, make rows, insert.
- spanferry, 2 processes: two of them share the traces, as with `spanferry worker --processes 2`.
- spanferry, MLflow's methods: the same with mlflow.bulk off: start_trace, then log_spans in batches.
- MLflow: log_spans and start_trace for each trace, in the order of MLflow's own SDK.
- spanferry, MLflow's server and MLflow, its server: the worker's sink, and MLflow's own client with as many
  threads as its exporter, to an `mlflow server` of two workers on the same database.

All with as many writes at once as the worker has: 4 into PostgreSQL and MariaDB, into SQLite 2, of which one
writes. Full tables (PostgreSQL, SQLite) and empty ones take their turns in the same rounds, at last with
settings that a user may try: more memory for PostgreSQL, a write-ahead log for SQLite.

Results go to benchmarks/results/stores.json (from Kafka: stores-kafka.json), the pictures beside it, the page
is docs/benchmarks-stores.md.
"""

import argparse
import contextlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.machine import conditions
from benchmarks.stores_document import KAFKA, RESULTS
from benchmarks.stores_fill import FILLS, fill, template
from benchmarks.stores_postgres import LARGER, set_for_restart
from benchmarks.stores_raw import RAW
from benchmarks.stores_report import Result, Row
from benchmarks.stores_rounds import Pids, cases, filled_case, measure, pages
from benchmarks.stores_ways import Store, columns
from benchmarks.worker_run import run_worker
from tests.services.mariadb import MariaDbServer
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer

__all__ = ["main"]

FILLED = 1_000_000
END_TO_END = 3
"""Runs from Kafka with each number of processes, in turns."""


class Place:
    """Databases of one kind. `server` is none for SQLite."""

    def __init__(
        self, name: str, new: Callable[[], str], server: PostgresServer | MariaDbServer | None
    ) -> None:
        self.name, self.new, self.server = name, new, server

    @property
    def pid(self) -> int:
        """Of the database."""
        return self.server.pid if self.server else 0


@contextlib.contextmanager
def _place(name: str) -> Iterator[Place]:
    """Started, and ended again: one database at a time has the machine."""
    with contextlib.ExitStack() as stack:
        if name == "SQLite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spanferry-stores-"))
            numbers = iter(range(1_000))
            yield Place(name, lambda: f"sqlite:///{folder}/mlflow{next(numbers)}.db", None)
            return
        kind = PostgresServer if name == "PostgreSQL" else MariaDbServer
        server = stack.enter_context(kind(durable=True))
        yield Place(name, server.new_database, server)


def _measure_empty(place: Place, result: Result) -> None:
    with contextlib.ExitStack() as stack:
        store = Store(place.name, place.new(), stack)
        if place.server:  # SQLite takes one writer
            store.add_processes()
        for number, case in enumerate(cases(store.concurrency, quick=result.quick)):
            with contextlib.ExitStack() as served:
                pids = Pids(place.pid)
                if not number:  # the case with all ways
                    server = served.enter_context(MlflowServer(store.uri, workers=2))
                    store.add_server(server)
                    pids = Pids(place.pid, server.pid)
                _say(result, measure(case, [store], pids))
            store.drop_server()


def _measure_filled(place: Place, traces: int, result: Result) -> None:
    empty_uri, full_uri = place.new(), place.new()
    with contextlib.ExitStack() as stack:
        store = Store(place.name, full_uri, stack)
        result.fills.append(fill(place.name, full_uri, template(store), columns(), traces))
        print(result.fills[-1], flush=True)
    _measure_both(place, empty_uri, full_uri, traces, "", result)
    if isinstance(place.server, PostgresServer):
        settings = set_for_restart(full_uri, LARGER)
        place.server.stop()
        place.server.start()
    else:
        settings = _write_ahead((empty_uri, full_uri))
    _measure_both(place, empty_uri, full_uri, traces, settings, result)


def _measure_from_kafka(result: Result) -> None:
    with PostgresServer(durable=True) as server:
        for processes in (1, 2) * (1 if result.quick else END_TO_END):
            one = run_worker(server.new_database(), processes, 2_000 if result.quick else 20_000)
            print(one, flush=True)
            result.end_to_end.append(one)


def _write_ahead(uris: Sequence[str]) -> str:
    """Have SQLite keep a log instead of a journal, which stays so in the file; in words."""
    for uri in uris:
        with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as raw:
            raw.execute("PRAGMA journal_mode = WAL")
    return "journal_mode WAL"


def _measure_both(
    place: Place, empty_uri: str, full_uri: str, traces: int, settings: str, result: Result
) -> None:
    case = filled_case(quick=result.quick)
    with contextlib.ExitStack() as stack:
        stores = [
            Store(place.name, empty_uri, stack, settings=settings),
            Store(place.name, full_uri, stack, stored=traces, settings=settings),
        ]
        rows = measure(case, stores, Pids(place.pid))
        counts = {} if result.quick else {store.stored: pages(store, case) for store in stores}
    for row in rows:
        own = counts.get(row.stored, {}) if row.way == "spanferry" else {}
        _say(result, [msgspec.structs.replace(row, pages=own)])


def _say(result: Result, rows: Sequence[Row]) -> None:
    result.rows += rows
    for row in rows:
        print(_line(row), flush=True)


def _line(row: Row) -> str:
    return (
        f"{row.store:10} {row.stored:7}{'+' if row.settings else ' '} {row.payload:>6} batch {row.batch:4}  "
        f"{row.way:28} {statistics.median(row.per_second):8.0f} traces/s "
        f"({min(row.per_second):.0f}-{max(row.per_second):.0f})"
        f"  {statistics.median(row.of_raw):5.2f} of raw  CPU {row.cpu_ms:6.2f} ms"
        f", database {row.database_cpu_ms or 0:6.2f} ms, server {row.server_cpu_ms or 0:6.2f} ms"
        + (f"  {statistics.median(row.of_empty):5.2f} of empty" if row.of_empty else "")
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few traces, one kind")
    parser.add_argument("--end-to-end", action="store_true", help="from Kafka through a worker")
    parser.add_argument("--stores", nargs="+", choices=RAW, help="these only")
    parser.add_argument(
        "--filled", type=int, metavar="TRACES", help=f"in full tables ({FILLED:,}; quick: 20,000)"
    )
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    filled = given.filled
    if filled is None:
        filled = 20_000 if given.quick else FILLED
    start = time.monotonic()
    result = Result(conditions("psycopg", "pymysql", "sqlalchemy", "uvloop"), given.quick)
    partly = given.quick or given.stores
    whole = KAFKA if given.end_to_end else RESULTS
    out = given.out or (RESULTS.with_name("last.tmp.json") if partly else whole)

    def write() -> None:
        result.seconds = round(time.monotonic() - start, 1)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")

    if given.end_to_end:
        _measure_from_kafka(result)
        write()
        return 0
    for name in given.stores or RAW:
        with _place(name) as place:
            _measure_empty(place, result)
            if filled and name in FILLS:
                _measure_filled(place, filled, result)
        write()  # the rest may take half an hour yet
    return 0


if __name__ == "__main__":
    sys.exit(main())
