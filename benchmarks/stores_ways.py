"""One database, and the ways into it: each takes batches, prepares, and returns what is to be timed."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

from benchmarks.stores_postgres import has_lz4
from benchmarks.stores_processes import PROCESSES, WriterProcesses
from benchmarks.stores_raw import RAW, Raw, Run, in_threads, raw_postgres_lz4
from spanferry_worker.services.mlflow_sink import MlflowSink, open_sink
from spanferry_worker.services.mlflow_trace_rows import NewTrace, TraceRows
from spanferry_worker.stages.trace import AssembledTrace
from tests.services.mlflow import MlflowServer

__all__ = [
    "EXPORTER_THREADS",
    "IN_PROCESSES",
    "LZ4",
    "WAYS",
    "Batches",
    "Store",
    "Way",
    "columns",
    "entities",
    "log_into",
    "write_batches",
]

EXPORTER_THREADS = 10
"""MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS."""
LZ4 = "raw, LZ4"
IN_PROCESSES = f"spanferry, {PROCESSES} processes"
SERVED = ("spanferry, MLflow's server", "MLflow, its server")
WAYS = ("raw", "spanferry", LZ4, IN_PROCESSES, "spanferry, MLflow's methods", "MLflow", *SERVED)

Batches = Sequence[Sequence[AssembledTrace]]
Way = Callable[[Batches, contextlib.ExitStack], Run]
"""What it opens for one run, the stack closes."""


class Store:
    """Opened with its sinks until `stack` is closed. `stored`: the traces that it has from the start."""

    def __init__(
        self,
        name: str,
        uri: str,
        stack: contextlib.ExitStack,
        *,
        stored: int = 0,
        settings: str = "",
    ) -> None:
        self.name, self.stored, self.settings = name, stored, settings
        self.uri = uri
        self.writers: WriterProcesses | None = None
        """Who goes the way IN_PROCESSES, which takes no batches from here."""
        self._stack = stack
        self._loop = asyncio.new_event_loop()
        stack.callback(self._loop.close)
        self._sinks = {
            bulk: self._opened(open_sink(uri, default_experiment="bench", bulk=bulk))
            for bulk in (True, False)
        }
        self.ways: dict[str, Way] = {
            "raw": partial(self._raw, RAW[name]),
            "spanferry": partial(self._sink, self._sinks[True]),
            "spanferry, MLflow's methods": partial(self._sink, self._sinks[False]),
            "MLflow": self._native,
        }
        if name == "PostgreSQL" and has_lz4(uri):
            self.ways[LZ4] = partial(self._raw, raw_postgres_lz4)

    def add_server(self, server: MlflowServer) -> None:
        """Have the ways through a server, too, which stores in this database."""
        from mlflow.store.tracking.rest_store import RestStore

        from spanferry_worker.services.mlflow_private import credentials

        sink = self._opened(open_sink(server.uri, default_experiment="Default"))
        client = RestStore(partial(credentials, server.uri))
        self.ways["spanferry, MLflow's server"] = partial(self._sink, sink)
        self.ways["MLflow, its server"] = partial(self._served, client)

    def goes(self, way: str) -> bool:
        """Whether it is there for this database, and was not dropped."""
        return self.writers is not None if way == IN_PROCESSES else way in self.ways

    def add_processes(self) -> None:
        """Have the way by several processes, too."""
        self.writers = WriterProcesses(self.uri)
        self._stack.callback(self.writers.close)

    def drop_server(self) -> None:
        """It is gone."""
        for way in SERVED:
            self.ways.pop(way, None)

    @property
    def concurrency(self) -> int:
        """Batches that the worker writes at once."""
        return self._sinks[True].concurrency

    def rows(self, trace: AssembledTrace) -> TraceRows:
        """Those that the worker makes of a trace, with all texts as any driver takes them."""
        from spanferry_worker.services import mlflow_bulk as bulk

        named = f"tr-{(trace.trace_id or b'').hex()}"
        new = NewTrace(named, trace, "0", None)
        (made,) = self._writer._rows.rows([new])  # noqa: SLF001
        return made._replace(spans=bulk._TABLES[3].decoded(made.spans))  # noqa: SLF001

    def _opened(self, sink: MlflowSink) -> MlflowSink:
        self._loop.run_until_complete(sink.open())
        self._stack.callback(lambda: self._loop.run_until_complete(sink.close()))
        return sink

    @property
    def _writer(self) -> Any:
        return self._sinks[True]._writer  # noqa: SLF001

    def _sink(self, sink: MlflowSink, batches: Batches, _: contextlib.ExitStack) -> Run:
        return lambda: self._loop.run_until_complete(write_batches(sink, batches))

    def prepared(self, batches: Batches) -> list[list[tuple[Any, Any]]]:
        """The worker's rows of each batch: for each table its name and columns, and rows."""
        prepared = []
        for batch in batches:
            rows = [self.rows(one) for one in batch]
            tables: list[list[tuple[Any, ...]]] = [
                [one.values for one in rows],
                [(one.trace_id, *tag) for one in rows for tag in one.tags.items()],
                [(one.trace_id, *text) for one in rows for text in one.metadata.items()],
                [row for one in rows for row in one.spans],
            ]
            prepared.append(list(zip(columns().items(), tables, strict=True)))
        return prepared

    def _raw(self, raw: Raw, batches: Batches, stack: contextlib.ExitStack) -> Run:
        """The same rows, made beforehand, by the database's own fastest way."""
        return raw(self.uri, self.prepared(batches), stack)

    def _native(self, batches: Batches, _: contextlib.ExitStack) -> Run:
        """MLflow's own store, in as many threads as the worker has."""
        made = self._made(batches)
        log = log_into(self._writer._backend.store)  # noqa: SLF001
        shares = [made[at :: self.concurrency] for at in range(self.concurrency)]
        return lambda: in_threads(lambda some: list(map(log, some)), shares)

    def _served(self, client: Any, batches: Batches, _: contextlib.ExitStack) -> Run:
        """MLflow's own client, in as many threads as its exporter has."""
        made, log = self._made(batches), log_into(client)

        def run() -> None:
            with ThreadPoolExecutor(EXPORTER_THREADS) as pool:
                list(pool.map(log, made))

        return run

    def _made(self, batches: Batches) -> list[tuple[Any, Any]]:
        return entities(self._writer._builder, chain.from_iterable(batches))  # noqa: SLF001


def entities(builder: Any, traces: Iterable[AssembledTrace]) -> list[tuple[Any, Any]]:
    """Each trace as MLflow's SDK has it: its TraceInfo and spans."""
    made = []
    for one in traces:
        trace_id = one.trace_id or b""
        spans = [builder.spans.entity(trace_id, span) for span in one.spans]
        named = f"tr-{trace_id.hex()}"
        info = builder.new_info(named, one, spans, experiment_id="0", model_id=None)
        made.append((info, spans))
    return made


def columns() -> dict[str, Sequence[str]]:
    """Columns that are written, by table, in the order of the worker's rows."""
    from spanferry_worker.services import mlflow_bulk as bulk

    return {str(one.table.name): one.columns for one in bulk._TABLES[:4]}  # noqa: SLF001


async def write_batches(sink: MlflowSink, batches: Batches) -> None:
    """As the worker does: so many at once as the sink takes."""
    left = list(batches)

    async def write() -> None:
        while left:
            await sink.write(left.pop())

    async with asyncio.TaskGroup() as group:
        for _ in range(sink.concurrency):
            group.create_task(write())


def log_into(store: Any) -> Callable[[tuple[Any, Any]], None]:
    """Store one of `entities` as MLflow's exporter does."""

    def log(pair: tuple[Any, Any]) -> None:
        info, spans = pair
        store.log_spans("0", spans)
        store.start_trace(info)

    return log
