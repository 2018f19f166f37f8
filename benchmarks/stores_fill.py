"""Fills MLflow's tables with many small traces, by statements of SQL, before anything is measured.

Each is a copy of one trace of five spans and 1 KB with ids, times and a session of its own: every row and
every index entry that a trace has is there, less the ids within the spans' content. Checks of foreign keys
and syncs to disk are off meanwhile; PostgreSQL makes its indexes at the end, with pages two thirds full, as
random ids leave them.
"""

import contextlib
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

from benchmarks.store_traces import make_traces
from benchmarks.stores_report import Fill
from benchmarks.stores_ways import Store
from spanferry_worker.services.mlflow_trace_rows import TraceRows

__all__ = ["FILLS", "fill", "template"]

DISK_BYTES = 14_000
"""A trace, with its indexes and PostgreSQL's log: about twice what it takes."""
FILL_S_MAX = 600.0
_EVERY_MS = 2_592
"""Between two traces: a million are a month's."""
_TABLES = ("trace_info", "trace_tags", "trace_request_metadata", "spans")
_FILLFACTOR = 67

Statement = tuple[str, list[Any]]


def fill(
    store: str, uri: str, one: TraceRows, columns: dict[str, Sequence[str]], traces: int
) -> Fill:
    """Store so many; `columns` are the tables' in the order of the template's rows.

    Raises RuntimeError where the disk is too small, or where it takes ten minutes.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < traces * DISK_BYTES:
        raise RuntimeError(
            f"{traces:,} traces may take {traces * DISK_BYTES / 1e9:.0f} GB, and "
            f"{tempfile.gettempdir()} has {free / 1e9:.0f} GB left: give --filled fewer, or set TMPDIR"
        )
    start = time.perf_counter()
    statements = list(_statements(one, columns))
    megabytes = FILLS[store](uri, statements, traces, start + FILL_S_MAX)
    return Fill(store, traces, round(time.perf_counter() - start, 1), megabytes)


def template(store: Store) -> TraceRows:
    """What is copied."""
    made = store.rows(make_traces("1 KB", 1)[0])
    place = f"mlflow-artifacts:/0/traces/{made.trace_id}/artifacts"
    return made._replace(tags={**made.tags, MLFLOW_ARTIFACT_LOCATION: place})


def _statements(one: TraceRows, columns: dict[str, Sequence[str]]) -> Iterator[Statement]:
    """From the table `filled` with a number and an id for each trace."""
    own = {"request_id": "request_id", "trace_id": "request_id", "session_id": "'s-' || (n / 3)"}
    own["timestamp_ms"] = f"? - n * {_EVERY_MS}"
    rows: dict[str, list[tuple[Any, ...]]] = {
        "trace_info": [one.values],
        "trace_tags": [(one.trace_id, *tag) for tag in one.tags.items()],
        "trace_request_metadata": [(one.trace_id, *text) for text in one.metadata.items()],
    }
    for table, some in rows.items():
        for row in some:
            yield _insert(table, dict(zip(columns[table], row, strict=True)), own)
    place = {row[2]: f"substr(request_id, {4 + at}, 16)" for at, row in enumerate(one.spans)}
    for span in one.spans:
        values = dict(zip(columns["spans"], span, strict=True))
        times = {
            name: f"? - n * {_EVERY_MS}000000" for name in values if name.endswith("_unix_nano")
        }
        ids = {"span_id": place[values["span_id"]]}
        if values["parent_span_id"]:
            ids["parent_span_id"] = place[values["parent_span_id"]]
        yield _insert("spans", values, {**own, **times, **ids})


def _insert(table: str, values: dict[str, Any], own: dict[str, str]) -> Statement:
    terms = [own.get(name, "?") for name in values]
    given = [value for value, term in zip(values.values(), terms, strict=True) if "?" in term]
    names = ", ".join(values)
    return f"INSERT INTO {table} ({names}) SELECT {', '.join(terms)} FROM filled", given


def _check(deadline: float) -> None:
    if time.perf_counter() > deadline:
        raise RuntimeError(
            f"filling takes more than {FILL_S_MAX:.0f} s: give --filled fewer traces"
        )


def _fill_postgres(
    uri: str, statements: Sequence[Statement], traces: int, deadline: float
) -> dict[str, float]:
    names = ", ".join(f"'{name}'::regclass" for name in _TABLES)
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as raw:
        run: Callable[..., Any] = raw.execute
        run("SET session_replication_role = replica")  # no checks of foreign keys
        run("SET synchronous_commit = off")
        run("SET maintenance_work_mem = '1GB'")
        run("CREATE TEMPORARY TABLE filled (n bigint, request_id text)")
        run(
            "INSERT INTO filled SELECT n, 'tr-' || md5(random()::text || n) "
            f"FROM generate_series(1, {traces}) AS n"
        )
        indexes = [
            name
            for (name,) in run(
                f"SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid IN ({names})"
            )
        ]
        for name in indexes:
            run(f"ALTER INDEX {name} SET (fillfactor = {_FILLFACTOR})")
        run(f"UPDATE pg_index SET indisready = false WHERE indrelid IN ({names})")
        for statement, values in statements:
            run(statement.replace("?", "%s"), values)
            _check(deadline)
        for name in _TABLES:
            run(f"REINDEX TABLE {name}")
            run(f"VACUUM (ANALYZE, FREEZE) {name}")
            _check(deadline)
        run("CHECKPOINT")
        sizes: dict[str, float] = {}
        for name in _TABLES:
            (table, index) = run(
                f"SELECT pg_table_size('{name}'), pg_indexes_size('{name}')"
            ).fetchone()
            sizes |= {name: round(table / 1e6, 1), f"{name} indexes": round(index / 1e6, 1)}
        return sizes


def _fill_sqlite(
    uri: str, statements: Sequence[Statement], traces: int, deadline: float
) -> dict[str, float]:
    path = uri.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for pragma in (
            "cache_size = -4000000", "synchronous = OFF", "journal_mode = OFF", "temp_store = MEMORY",
        ):  # fmt: skip
            raw.execute(f"PRAGMA {pragma}")
        raw.execute("CREATE TEMPORARY TABLE filled (n INTEGER PRIMARY KEY, request_id TEXT)")
        raw.execute("BEGIN")
        ids = ((n, f"tr-{secrets.token_hex(16)}") for n in range(1, traces + 1))
        raw.executemany("INSERT INTO filled VALUES (?, ?)", ids)
        for statement, values in statements:
            raw.execute(statement, values)
            _check(deadline)
        raw.execute("COMMIT")
        (size,) = raw.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()
    return {"file": round(size / 1e6, 1)}


FILLS: dict[str, Callable[[str, Sequence[Statement], int, float], dict[str, float]]] = {
    "PostgreSQL": _fill_postgres,
    "SQLite": _fill_sqlite,
}
