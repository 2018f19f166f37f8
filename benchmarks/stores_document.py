"""Writes docs/benchmarks-stores.md: `python -m benchmarks.stores_document`.

A test fails while it is not what the published results say.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.machine import in_words
from benchmarks.stores_report import Result, Row
from benchmarks.stores_verdicts import COLLECTOR_PER_SECOND, verdicts
from benchmarks.tables import table

__all__ = ["DRIVERS", "KAFKA", "PAGE", "RESULTS", "document", "read"]

RESULTS = Path(__file__).parent / "results" / "stores.json"
DRIVERS = RESULTS.with_name("stores-drivers.json")
KAFKA = RESULTS.with_name("stores-kafka.json")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-stores.md"

HEAD = """\
# Benchmarks: into MLflow's database

Made from [stores.json](../benchmarks/results/stores.json) by `python -m benchmarks.stores_document`. Traces
of five spans from memory into MLflow's tables; the databases sync to disk as in production.

"""
PICTURES = {
    "ways": "Traces a second of every way into every store",
    "batches": "Traces a second by size of batch",
    "sizes": "Megabytes a second by size of a trace",
}

METHOD = """
## How it is measured

- raw: rows that were made beforehand, put into the four tables that a trace without feedback has, by COPY
  of ready text (PostgreSQL) or INSERTs of many rows (SQLite, MariaDB), a transaction a batch, into a
  database with its own defaults. raw, LZ4: with large texts compressed as the worker has PostgreSQL compress
  them, which by itself takes an older way, pglz. No writer can be faster on this machine.
- spanferry: all that a worker's sink does with assembled traces: look up what is there, make the rows with
  MLflow's own derivations, insert. 2 processes: two of them share the traces, as with
  `spanferry worker --processes 2`, which spares them waiting for each other's interpreter.
- spanferry, MLflow's methods: the same with `mlflow.bulk` off, or for versions of MLflow that it does not
  know: `start_trace`, then `log_spans` in batches.
- MLflow: `log_spans` and `start_trace` of its SQL store for each trace, in the order of its own SDK; the
  entities were made beforehand.
- spanferry, MLflow's server: the worker's sink with an `mlflow server` of two workers on the same database.
  MLflow, its server: MLflow's own client with that server, `log_spans` and `start_trace` for each trace, in
  ten threads as its exporter has.
- All but the last with as many writes at once as a worker process has: four into PostgreSQL and MariaDB; two
  into SQLite, of which one writes while the other prepares. A batch is 200 traces, or 8 MB.
- A round gives every way in turn the same kind of traces, new ones; figures are medians of the rounds, in
  brackets the lowest and the highest, and a ratio is that of one round. The writer, the database and all
  else share the two cores.
- CPU is user and system time for a trace: of the process that writes, of all of the database's processes
  with those in the background, of the server's. SQLite is part of the process that writes.
- MB/s counts inputs and outputs, which is what a trace of 10 KB is named by.
- Full tables are filled by SQL from one small trace (five spans, 1 KB) with ids, times and sessions of their
  own, and indexes whose pages are as full as random ids leave them; the empty ones have their turns in the
  same rounds. MLflow's ids are random: a row goes to any page of an index, so that with more rows than fit
  into the database's cache each trace has pages read and written for itself alone, whoever writes it.
- That storing the same again changes no row is not timed but tested:
  `tests/sinks/test_write.py::test_repeating_a_batch_changes_nothing`.

```sh
.venv/bin/python -m benchmarks.stores
.venv/bin/python -m benchmarks.stores --end-to-end
.venv/bin/python -m benchmarks.stores_plots benchmarks/results/stores.json
.venv/bin/python -m benchmarks.stores_document
```
"""


DRIVERS_TEXT = """\
The same rows by each driver, in each form
([stores-drivers.json](../benchmarks/results/stores-drivers.json), `python -m benchmarks.stores_drivers`):
traces of 10 KB, a transaction for 200 of them, four at once. What a way makes of the tuples is timed; raw is
text that was made before.

The worker writes by psycopg: a batch is one transaction of MLflow's own session, which reads the revision of
the tables, looks up experiments and locks the queue of daily figures first. asyncpg's connections cannot
take part in it, for MLflow's store is not asynchronous. psycopg makes its text and its binary form in C;
blocks that are made in Python cost more than they spare.

"""


def read(path: Path) -> Result:
    """Results of `benchmarks.stores`, with and without `--end-to-end`, or of `benchmarks.stores_drivers`."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def document(result: Result, drivers: Result | None = None, kafka: Result | None = None) -> str:
    """The page; `drivers` and `kafka`, from there through a worker, are of other runs."""
    took = f"; the run took {result.seconds / 60:.0f} minutes" if result.seconds else ""
    parts = [HEAD, f"{_where(result)}{took}.\n"]
    if result.quick:
        parts.append("\n> A short run, to show the form of this page; do not quote it.\n")
    from_kafka = kafka.end_to_end if kafka else []
    if found := verdicts(result, from_kafka):
        lines = [[one.promise, one.measured, "yes" if one.holds else "**no**"] for one in found]
        parts += ["\n## What was promised\n\n", table(("", "measured", "holds"), lines), "\n"]
    for name, text in PICTURES.items():
        if RESULTS.with_name(f"{RESULTS.stem}-{name}.svg").exists():
            parts.append(f"\n![{text}](../benchmarks/results/{RESULTS.stem}-{name}.svg)\n")
    for store in dict.fromkeys(row.store for row in result.rows):
        rows = [row for row in result.rows if row.store == store]
        parts += [f"\n## {store}\n\n", *_table([row for row in rows if not row.beside_full])]
        if full := [row for row in rows if row.beside_full]:
            parts += [f"\n### {store}: full tables\n\n", *_full(result, store, full)]
    if kafka:
        parts += ["\n## From Kafka into PostgreSQL\n\n", *_end_to_end(kafka)]
    if drivers:
        parts += ["\n## PostgreSQL's drivers\n\n", *_drivers(drivers)]
    return "".join([*parts, METHOD])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| traces | batch | way | traces/s (rounds) | MB/s | of raw (rounds) | by MLflow's | "
        "CPU ms a trace: client | database | server |\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for row in rows:
        peers = [
            peer for peer in rows
            if (peer.way, peer.payload, peer.batch) == ("MLflow", row.payload, row.batch)
        ]  # fmt: skip
        times = "-"
        if peers and row.way != "MLflow":
            pairs = zip(row.per_second, peers[0].per_second, strict=True)
            times = f"{statistics.median(own / native for own, native in pairs):.1f} times"
        yield (
            f"| {row.payload} | {row.batch:,} | {row.way} | {_spread(row.per_second, ',.0f')} | "
            f"{_megabytes(row)} | {_spread(row.of_raw, '.0%')} | {times} | {_cpu(row)} |\n"
        )


def _full(result: Result, store: str, rows: Sequence[Row]) -> Iterator[str]:
    for one in result.fills:
        if one.store == store:
            sizes = ", ".join(f"{name} {size:,.0f}" for name, size in one.megabytes.items())
            yield (
                f"{one.traces:,} traces, filled in {one.seconds:.0f} s. In MB: {sizes}; "
                f"{sum(one.megabytes.values()):,.0f} in all.\n\n"
            )
    yield (
        "| settings | stored before | way | traces/s (rounds) | of empty (rounds) | of raw | "
        "CPU ms a trace: client | database | server |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    for row in rows:
        of_empty = _spread(row.of_empty, ".0%") if row.of_empty else "-"
        yield (
            f"| {row.settings or 'defaults'} | {row.stored:,} | {row.way} | "
            f"{_spread(row.per_second, ',.0f')} | {of_empty} | {_spread(row.of_raw, '.0%')} | "
            f"{_cpu(row)} |\n"
        )
    yield from _pages([row for row in rows if row.pages])


def _pages(rows: Sequence[Row]) -> Iterator[str]:
    """What PostgreSQL counts for a trace; of its indexes those that read at least a page in 20 traces."""
    if not rows:
        return
    shown = [
        name
        for name in rows[0].pages
        if not name.endswith(" pages read") or any(row.pages.get(name, 0) >= 0.05 for row in rows)
    ]
    heads = [f"{row.stored:,} stored{', other settings' if row.settings else ''}" for row in rows]
    yield "\nWhat PostgreSQL counts for a trace that spanferry stores (read: from outside of its cache):\n\n"
    lines = [[name, *(f"{row.pages.get(name, 0):,.2f}" for row in rows)] for name in shown]
    yield table(("", *heads), lines) + "\n"


def _cpu(row: Row) -> str:
    others = (row.database_cpu_ms, row.server_cpu_ms)
    return " | ".join(
        [f"{row.cpu_ms:.2f}", *("-" if one is None else f"{one:.2f}" for one in others)]
    )


def _megabytes(row: Row) -> str:
    if not row.trace_bytes:
        return "-"
    return f"{statistics.median(row.per_second) * row.trace_bytes / 1e6:.1f}"


def _end_to_end(result: Result) -> Iterator[str]:
    yield (
        "All traces (five spans, 10 KB) lie in Kafka when the worker starts; counted in PostgreSQL between "
        "the first tenth and the last. Broker, worker and database share the two cores. Through "
        "OpenTelemetry's collectors instead (SDK, collector, Kafka, collector with groupbytrace, "
        f"`mlflow server` on PostgreSQL) {COLLECTOR_PER_SECOND:.0f} traces/s were measured, once, in another "
        "run on a machine of this kind.\n\n"
    )
    yield f"`python -m benchmarks.stores --end-to-end`: {_where(result)}.\n\n"
    lines = []
    for processes in sorted({one.processes for one in result.end_to_end}):
        runs = [one for one in result.end_to_end if one.processes == processes]
        traces, stored = sum(one.traces for one in runs), sum(one.stored for one in runs)
        rates = _spread([one.per_second for one in runs], ",.0f")
        lines.append([str(processes), str(len(runs)), f"{traces:,}", f"{stored:,}", rates])
    yield table(("processes", "runs", "traces", "stored", "traces/s (runs)"), lines) + "\n"


def _drivers(result: Result) -> Iterator[str]:
    yield f"{DRIVERS_TEXT}{_where(result)}.\n\n"
    lines = [
        [
            row.way, _spread(row.per_second, ",.0f"), _spread(row.of_raw, ".0%"),
            f"{row.cpu_ms:.3f}", f"{row.database_cpu_ms or 0:.3f}",
        ]
        for row in result.rows
    ]  # fmt: skip
    yield (
        table(
            (
                "rows by",
                "traces/s (rounds)",
                "of raw (rounds)",
                "CPU ms a trace: client",
                "database",
            ),
            lines,
        )
        + "\n"
    )


def _where(result: Result) -> str:
    where = result.conditions
    return f"{in_words(where)}; {where.at}; load {where.load_1m} before"


def _spread(figures: Sequence[float], form: str) -> str:
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


if __name__ == "__main__":
    PAGE.write_text(document(read(RESULTS), read(DRIVERS), read(KAFKA)))
    print(PAGE)
