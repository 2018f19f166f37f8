"""Writes docs/benchmarks-stores.md: `python -m benchmarks.stores_document`.

A test fails while it is not what the published results say.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.machine import in_words
from benchmarks.stores_report import Result, Row

__all__ = ["PAGE", "RESULTS", "document"]

RESULTS = Path(__file__).parent / "results" / "stores.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-stores.md"

HEAD = """\
# Benchmarks: into MLflow's database

Made from [stores.json](../benchmarks/results/stores.json) by `python -m benchmarks.stores_document`. Traces
of five spans from memory into MLflow's tables; the databases sync to disk as in production.

"""

METHOD = """
## How it is measured

- raw: rows that were made beforehand, put into the five tables by COPY of ready text (PostgreSQL) or
  `executemany` (SQLite), a transaction a batch. No writer can be faster on this machine.
- spanferry: all that a worker's sink does with assembled traces: look up what is there, make the rows with
  MLflow's own derivations, insert.
- spanferry, MLflow's methods: the same with `mlflow.bulk` off, or for versions of MLflow that it does not
  know: `start_trace`, then `log_spans` in batches.
- MLflow: `log_spans` and `start_trace` of its SQL store for each trace, in the order of its own SDK; the
  entities were made beforehand.
- All with as many writes at once as a worker process has: four into PostgreSQL; two into SQLite, of which
  one writes while the other prepares.
- A round gives every way in turn the same kind of traces, new ones; figures are medians of the rounds, in
  brackets the lowest and the highest, and a ratio is that of one round. The writer, the database and all
  else share the two cores.

```sh
.venv/bin/python -m benchmarks.stores --end-to-end
.venv/bin/python -m benchmarks.stores_document
```
"""


def document(result: Result) -> str:
    """The page."""
    where = result.conditions
    parts = [HEAD, f"{in_words(where)}; {where.at}; load {where.load_1m} before.\n"]
    if result.quick:
        parts.append("\n> A short run, to show the form of this page; do not quote it.\n")
    for store in dict.fromkeys(row.store for row in result.rows):
        rows = [row for row in result.rows if row.store == store]
        parts += [f"\n## {store}\n\n", *_table(rows)]
    if result.end_to_end:
        parts += ["\n## From Kafka into PostgreSQL\n\n", *_end_to_end(result)]
    return "".join([*parts, METHOD])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| traces | batch | way | traces/s (rounds) | of raw (rounds) | by MLflow's | CPU ms a trace |\n"
    yield "|---|---|---|---|---|---|---|\n"
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
            f"{_spread(row.of_raw, '.0%')} | {times} | {row.cpu_ms:.2f} |\n"
        )


def _end_to_end(result: Result) -> Iterator[str]:
    yield (
        "All traces (five spans, 10 KB) lie in Kafka when the worker starts; counted in PostgreSQL between "
        "the first tenth and the last. Broker, worker and database share the two cores.\n\n"
    )
    yield "| processes | traces | stored | traces/s |\n|---|---|---|---|\n"
    for one in result.end_to_end:
        yield f"| {one.processes} | {one.traces:,} | {one.stored:,} | {one.per_second:,.0f} |\n"


def _spread(figures: Sequence[float], form: str) -> str:
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


if __name__ == "__main__":
    PAGE.write_text(document(msgspec.json.decode(RESULTS.read_bytes(), type=Result)))
    print(PAGE)
