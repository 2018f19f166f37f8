"""How many traces a second each way into MLflow takes, beside the database's own ceiling.

    python -m benchmarks.stores               PostgreSQL, SQLite and MariaDB, every way, in about 9 minutes
    python -m benchmarks.stores --quick       in one; figures not to be quoted
    python -m benchmarks.stores --end-to-end  from Kafka through a worker process into PostgreSQL, too

Method. A round gives every way in turn the same number of traces that it has never seen, in an order
that rotates; ratios are those of one round, and medians over rounds are what to trust. All databases
sync to disk as in production. The ways:

- raw: rows that were made beforehand, put into the five tables by COPY of ready text (PostgreSQL),
  executemany (SQLite) or INSERTs of many rows (MariaDB), a transaction a batch: no writer can be faster on
  this machine.
- spanferry: the worker's sink, from assembled traces on: look up, make rows, insert.
- spanferry, MLflow's methods: the same with mlflow.bulk off: start_trace, then log_spans in batches.
- MLflow: log_spans and start_trace for each trace, in the order of MLflow's own SDK.

All with as many writes at once as the worker has: 4 into PostgreSQL and MariaDB, into SQLite 2, of which one
writes.

Results go to benchmarks/results/stores.json, the page is docs/benchmarks-stores.md.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import conditions
from benchmarks.store_traces import MAKES, make_traces
from benchmarks.stores_document import RESULTS
from benchmarks.stores_raw import RAW, in_threads
from benchmarks.stores_report import Result, Row
from benchmarks.worker_run import run_worker
from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.stages.trace import AssembledTrace
from tests.services.mariadb import MariaDbServer
from tests.services.postgres import PostgresServer

__all__ = ["main"]

BATCH = 200
"""Traces in a batch: the worker's default."""


Way = Callable[[Sequence[Sequence[AssembledTrace]]], float]
"""Writes batches; seconds that it took, less what was prepared."""


class Store:
    """One database, and the ways into it."""

    def __init__(self, name: str, uri: str, stack: contextlib.ExitStack) -> None:
        self.name = name
        self._uri = uri
        self._loop = asyncio.new_event_loop()
        stack.callback(self._loop.close)
        self._sinks = {
            bulk: open_sink(uri, default_experiment="bench", bulk=bulk) for bulk in (True, False)
        }
        for sink in self._sinks.values():
            self._loop.run_until_complete(sink.open())
            stack.callback(self._loop.run_until_complete, sink.close())
        self.ways: dict[str, Way] = {
            "raw": self._raw,
            "spanferry": lambda batches: self._sink(True, batches),
            "spanferry, MLflow's methods": lambda batches: self._sink(False, batches),
            "MLflow": self._native,
        }

    def _sink(self, bulk: bool, batches: Sequence[Sequence[AssembledTrace]]) -> float:
        sink, left = self._sinks[bulk], list(batches)

        async def write() -> None:
            while left:
                await sink.write(left.pop())

        async def write_all() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(sink.concurrency):
                    group.create_task(write())

        start = time.perf_counter()
        self._loop.run_until_complete(write_all())
        return time.perf_counter() - start

    @property
    def _writer(self) -> Any:
        return self._sinks[True]._writer  # noqa: SLF001

    def _raw(self, batches: Sequence[Sequence[AssembledTrace]]) -> float:
        """The same rows, made beforehand, by the database's own fastest way."""
        from spanferry_worker.services import mlflow_bulk as bulk

        writer, prepared = self._writer, []
        for batch in batches:
            rows = [
                writer._rows.rows(  # noqa: SLF001
                    f"tr-{(one.trace_id or b'').hex()}", one, experiment_id="0", model_id=None
                )
                for one in batch
            ]
            tables: list[list[tuple[Any, ...]]] = [
                [one.values for one in rows],
                [(one.trace_id, *tag) for one in rows for tag in one.tags.items()],
                [(one.trace_id, *text) for one in rows for text in one.metadata.items()],
                [row for one in rows for row in one.spans],
            ]
            named = [(table.table.name, table.columns) for table in bulk._TABLES]  # noqa: SLF001
            prepared.append(list(zip(named, tables, strict=False)))
        return RAW[self.name](self._uri, prepared)

    def _native(self, batches: Sequence[Sequence[AssembledTrace]]) -> float:
        writer, made = self._writer, []
        for one in (one for batch in batches for one in batch):
            trace_id = one.trace_id or b""
            spans = [writer._builder.spans.entity(trace_id, span) for span in one.spans]  # noqa: SLF001
            named = f"tr-{trace_id.hex()}"
            info = writer._builder.new_info(named, one, spans, experiment_id="0", model_id=None)  # noqa: SLF001
            made.append((info, spans))
        store = writer._backend.store  # noqa: SLF001

        def log(some: list[Any]) -> None:
            for info, spans in some:
                store.log_spans("0", spans)
                store.start_trace(info)

        threads = self._sinks[True].concurrency
        return in_threads(log, [made[at::threads] for at in range(threads)])


def _cases(quick: bool) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Payload, size of a batch, and how many traces each way is given a round."""
    scale = 5 if quick else 1
    usual = {"raw": 1000, "spanferry": 1000, "spanferry, MLflow's methods": 200, "MLflow": 60}
    yield "10 KB", BATCH, {way: count // scale for way, count in usual.items()}
    fast = ("raw", "spanferry")
    if quick:
        return
    for batch in (1, 10, 1000):
        yield "10 KB", batch, dict.fromkeys(fast, 100 if batch == 1 else 1000)
    for payload, count in (("1 KB", 1000), ("100 KB", 200), ("1 MB", 30)):
        yield payload, min(BATCH, count), dict.fromkeys(fast, count)


def _measure(store: Store, quick: bool) -> Iterator[Row]:
    rounds = 3 if quick else 5
    for payload, batch, counts in _cases(quick):
        per_second: dict[str, list[float]] = {way: [] for way in counts}
        cpu_ms: dict[str, list[float]] = {way: [] for way in counts}
        for number in range(-1, rounds):  # the first is for the caches
            order = list(counts)
            turn = number % len(order)
            for way in order[turn:] + order[:turn]:
                made = make_traces(payload, counts[way])
                batches = [made[at : at + batch] for at in range(0, len(made), batch)]
                cpu = time.process_time()
                took_s = store.ways[way](batches)
                if number >= 0:
                    per_second[way].append(round(counts[way] / took_s, 1))
                    cpu_ms[way].append((time.process_time() - cpu) / counts[way] * 1000)
        for way in counts:
            ratios = [a / b for a, b in zip(per_second[way], per_second["raw"], strict=True)]
            cpu_ms_median = round(statistics.median(cpu_ms[way]), 3)
            row = Row(
                store.name, way, payload, batch, counts[way], per_second[way],
                [round(ratio, 3) for ratio in ratios], cpu_ms_median,
            )  # fmt: skip
            print(_line(row), flush=True)
            yield row


def _line(row: Row) -> str:
    return (
        f"{row.store:10} {row.payload:>6} batch {row.batch:4}  {row.way:28} "
        f"{statistics.median(row.per_second):8.0f} traces/s "
        f"({min(row.per_second):.0f}-{max(row.per_second):.0f})"
        f"  {statistics.median(row.of_raw):5.2f} of raw  {row.cpu_ms:6.2f} ms CPU"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few traces, one kind")
    parser.add_argument("--end-to-end", action="store_true", help="through Kafka and a worker, too")
    parser.add_argument("--stores", nargs="+", choices=RAW, help="these only")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    assert set(MAKES) >= {payload for payload, _, _ in _cases(False)}
    result = Result(conditions("psycopg", "pymysql", "sqlalchemy", "uvloop"), given.quick)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spanferry-stores-"))
        server = stack.enter_context(PostgresServer(durable=True))
        makers: dict[str, Callable[[], str]] = {
            "PostgreSQL": server.new_database,
            "SQLite": lambda: f"sqlite:///{folder}/mlflow.db",
            "MariaDB": lambda: stack.enter_context(MariaDbServer(durable=True)).new_database(),
        }
        for name in given.stores or makers:
            uri = makers[name]()
            result.rows += _measure(Store(name, uri, stack), given.quick)
        if given.end_to_end:
            for processes in (1, 2):
                one = run_worker(server.new_database(), processes, 2_000 if given.quick else 20_000)
                print(one, flush=True)
                result.end_to_end.append(one)
    partly = given.quick or given.stores
    out = given.out or RESULTS.with_name("last.tmp.json" if partly else RESULTS.name)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
