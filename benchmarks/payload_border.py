"""From what size on a trace's spans are better off in MLflow's archive than in its database.

    python -m benchmarks.payload_border            PostgreSQL and SQLite, in about 6 minutes
    python -m benchmarks.payload_border --quick    in one; figures not to be quoted

Method. Two databases of a kind, one whose worker has an archive (a folder on the same disk), one without. A
round writes the same number of traces into each, in an order that changes, each batch by one call of the
worker's sink; then it reads each trace by MLflow's get_trace, down to the values of every attribute. Ratios
are those of one round. Both databases sync to disk, as does the archive. What a database takes is what it
has grown by. At the end a search for text that is nowhere looks through all spans of each database.

`chat` is prose: documents, messages, answers. `rows` is what a SQL tool returns: thousands of small objects,
each value of which OTLP has as a message of its own.

Results go to benchmarks/results/payload_border.json, and to docs/operations.md by hand.
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from benchmarks.machine import Conditions, conditions
from benchmarks.payloads import make_payload
from benchmarks.store_traces import make_traces
from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.stages.trace import AssembledTrace
from tests.services.postgres import PostgresServer

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results" / "payload_border.json"
SIZES = (100_000, 300_000, 1_000_000, 5_000_000, 20_000_000)
ROUND_BYTES = 5_000_000
"""Written in a round by each way, or one trace."""
ROUNDS = 5
SEARCHES = 5

Way = Literal["database", "archive"]
WAYS: tuple[Way, ...] = ("database", "archive")


class Cell(Struct, frozen=True):
    """One store, shape and size: a figure for each round, by way."""

    store: str
    shape: str
    size: int
    write_ms: dict[str, list[float]]
    write_cpu_ms: dict[str, list[float]]
    read_ms: dict[str, list[float]]
    stored_bytes: dict[str, float]
    """Of the database, for each trace."""


class Search(Struct, frozen=True):
    """Of text that is nowhere, through `traces` traces."""

    store: str
    traces: int
    seconds: dict[str, list[float]]


class Result(Struct):
    """Everything that was measured."""

    conditions: Conditions
    quick: bool
    cells: list[Cell] = []
    searches: list[Search] = []


class Place:
    """One database and its worker's sink."""

    def __init__(
        self, uri: str, archive: ArchivePolicy | None, stack: contextlib.ExitStack
    ) -> None:
        self.traces = 0
        self._loop = asyncio.new_event_loop()
        stack.callback(self._loop.close)
        self._sink = open_sink(uri, default_experiment="bench", archive=archive)
        self._loop.run_until_complete(self._sink.open())
        stack.callback(self._loop.run_until_complete, self._sink.close())
        writer: Any = self._sink._writer  # noqa: SLF001
        self._store: Any = writer._backend.store  # noqa: SLF001
        self._engine: sa.Engine = self._store.engine

    def write(self, traces: list[AssembledTrace]) -> tuple[float, float]:
        """Milliseconds that a trace took, and of CPU."""
        start, cpu = time.perf_counter(), time.process_time()
        self._loop.run_until_complete(self._sink.write(traces))
        took, cpu_took = time.perf_counter() - start, time.process_time() - cpu
        self.traces += len(traces)
        return took * 1000 / len(traces), cpu_took * 1000 / len(traces)

    def read(self, traces: list[AssembledTrace]) -> float:
        """Milliseconds that a trace took."""
        start = time.perf_counter()
        for one in traces:
            found = self._store.get_trace(f"tr-{(one.trace_id or b'').hex()}")
            assert len(found.data.spans) == len(one.spans)
            assert all(span.attributes for span in found.data.spans)
        return (time.perf_counter() - start) * 1000 / len(traces)

    def analyze(self) -> None:
        """Let the database know what it holds, as it does by itself after a while."""
        with self._engine.begin() as connection:
            connection.execute(sa.text("ANALYZE"))

    def search(self) -> float:
        """Seconds."""
        experiment = self._store.get_experiment_by_name("bench").experiment_id
        start = time.perf_counter()
        found, _ = self._store.search_traces(
            locations=[experiment], filter_string="trace.text LIKE '%nowhere to be found%'"
        )
        assert not found
        return time.perf_counter() - start

    def stored_bytes(self) -> int:
        """What the database takes on its disk."""
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "postgresql":
                size = "SELECT pg_database_size(current_database())"
                return int(connection.execute(sa.text(size)).scalar_one())
            pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()
            return int(pages * connection.execute(sa.text("PRAGMA page_size")).scalar_one())


def _made(shape: str, size: int, count: int) -> list[AssembledTrace]:
    """Traces that no store has seen."""
    payloads = itertools.cycle([_attributes(shape, size, seed) for seed in range(min(count, 4))])
    return [
        msgspec.structs.replace(
            one,
            spans=[
                msgspec.structs.replace(span, attributes={**span.attributes, **attributes})
                for span, attributes in zip(one.spans, next(payloads), strict=True)
            ],
        )
        for one in make_traces("1 KB", count)
    ]


@functools.cache
def _attributes(shape: str, size: int, seed: int) -> list[dict[str, bytes]]:
    encode = msgspec.json.encode
    return [
        {"mlflow.spanInputs": encode(inputs), "mlflow.spanOutputs": encode(outputs)}
        for inputs, outputs in make_payload(shape, size, seed)
    ]


def _measure(name: str, places: dict[Way, Place], shape: str, size: int, rounds: int) -> Cell:
    count = max(1, ROUND_BYTES // size)
    cell = Cell(name, shape, size, *({way: [] for way in WAYS} for _ in range(3)), {})
    before = {way: place.stored_bytes() for way, place in places.items()}
    for number in range(-1, rounds):  # the first is for the caches
        made = {way: _made(shape, size, count) for way in WAYS}
        for way in WAYS[:: 1 if number % 2 else -1]:
            took_ms, cpu_ms = places[way].write(made[way])
            if number >= 0:
                cell.write_ms[way].append(round(took_ms, 2))
                cell.write_cpu_ms[way].append(round(cpu_ms, 2))
        for way in WAYS[:: 1 if number % 2 else -1]:
            read_ms = places[way].read(made[way])
            if number >= 0:
                cell.read_ms[way].append(round(read_ms, 2))
    for way, place in places.items():
        grown = place.stored_bytes() - before[way]
        cell.stored_bytes[way] = round(grown / (count * (rounds + 1)))
    return cell


def _ratio(figures: dict[str, list[float]]) -> str:
    ratios = [a / b for a, b in zip(figures["archive"], figures["database"], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _line(cell: Cell) -> str:
    parts = [f"| {cell.store} | {cell.shape} | {cell.size / 1e6:g} MB"]
    for figures in (cell.write_ms, cell.write_cpu_ms, cell.read_ms):
        both = " / ".join(f"{statistics.median(figures[way]):.1f}" for way in WAYS)
        parts.append(f"{both} | {_ratio(figures)}")
    parts.append(" / ".join(f"{cell.stored_bytes[way] / 1000:,.0f}" for way in WAYS))
    return " | ".join(parts) + " |"


def _stores(stack: contextlib.ExitStack) -> Iterator[tuple[str, dict[Way, Place]]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spanferry-border-")))
    server = stack.enter_context(PostgresServer(durable=True))
    for name in ("PostgreSQL", "SQLite"):
        places: dict[Way, Place] = {}
        for way in WAYS:
            location = (folder / f"{name}-archive").as_uri()
            archive = ArchivePolicy(location=location, above_bytes=1) if way == "archive" else None
            uri = server.new_database() if name == "PostgreSQL" else f"sqlite:///{folder}/{way}.db"
            places[way] = Place(uri, archive, stack)
        yield name, places


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds, up to 5 MB, chat only")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    sizes, shapes = (SIZES[:-1], ("chat",)) if given.quick else (SIZES, ("chat", "rows"))
    result = Result(conditions("psycopg", "sqlalchemy", "protobuf"), given.quick)
    print("| store | shape | size | write ms database / archive | ratio | CPU ms | ratio | read ms | ratio "
          "| KB in the database |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, places in _stores(stack):
            for shape in shapes:
                for size in sizes:
                    cell = _measure(name, places, shape, size, 3 if given.quick else ROUNDS)
                    print(_line(cell), flush=True)
                    result.cells.append(cell)
            for place in places.values():
                place.analyze()
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(SEARCHES):
                for way in WAYS:
                    seconds[way].append(round(places[way].search(), 3))
            search = Search(name, places["archive"].traces, seconds)
            print(f"{name}: a text search through {search.traces} traces: {seconds}", flush=True)
            result.searches.append(search)
    out = given.out or (RESULTS.with_name("last.tmp.json") if given.quick else RESULTS)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
