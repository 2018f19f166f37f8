"""How many traces a second go into an `mlflow server`, by the worker's sink and by MLflow's own client.

    python -m benchmarks.stores_http            against a server on PostgreSQL, in about 3 minutes
    python -m benchmarks.stores_http --quick    in one; figures not to be quoted

Method. A round gives each way in turn the same kind of traces (five spans, 10 KB), which the server has
never seen, in an order that rotates; ratios are those of one round, and medians over rounds are what to
trust. Server (2 workers), database and client share the machine's cores. The ways:

- spanferry: the worker's sink, from assembled traces on, in batches of 200, four at once, with the
  settings' defaults: look up, records many at once, spans of up to 100 traces in a request.
- one at a time: the same sink with `http.requests_at_once_max` and `http.request_traces_max` at 1.
- MLflow's client: log_spans and start_trace for each trace, in the order of MLflow's own SDK, in as many
  threads as its exporter has (10).
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import conditions
from benchmarks.store_traces import make_traces
from benchmarks.stores_ways import EXPORTER_THREADS, entities, log_into, write_batches
from spanferry_worker.services.mlflow_sink import MlflowSink, open_sink
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.stages.trace import AssembledTrace
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer

__all__ = ["main"]

BATCH = 200
COUNTS = {"spanferry": 1000, "one at a time": 100, "MLflow's client": 150}
PAYLOAD = "10 KB"

Traces = Sequence[AssembledTrace]


def _by_mlflow(sink: MlflowSink, uri: str, traces: Traces) -> float:
    from mlflow.store.tracking.rest_store import RestStore

    from spanferry_worker.services.mlflow_private import credentials

    builder: Any = sink._writer._builder  # type: ignore[union-attr]  # noqa: SLF001
    made, log = entities(builder, traces), log_into(RestStore(partial(credentials, uri)))
    start = time.perf_counter()
    with ThreadPoolExecutor(EXPORTER_THREADS) as pool:
        list(pool.map(log, made))
    return time.perf_counter() - start


def _by_sink(loop: asyncio.AbstractEventLoop, sink: MlflowSink, traces: Traces) -> float:
    batches = [traces[at : at + BATCH] for at in range(0, len(traces), BATCH)]
    start = time.perf_counter()
    loop.run_until_complete(write_batches(sink, batches))
    return time.perf_counter() - start


def measure(uri: str, rounds: int, scale: int) -> dict[str, dict[str, Any]]:
    """Rates of each way, and how many times that of MLflow's client they are."""
    single = RequestPolicy(requests_at_once_max=1, request_traces_max=1)
    with contextlib.ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        sinks = {
            "spanferry": open_sink(uri, default_experiment="Default"),
            "one at a time": open_sink(uri, default_experiment="Default", http=single),
        }
        for sink in sinks.values():
            loop.run_until_complete(sink.open())
            stack.callback(lambda sink=sink: loop.run_until_complete(sink.close()))
        ways: dict[str, Callable[[Traces], float]] = {
            name: partial(_by_sink, loop, sink) for name, sink in sinks.items()
        }
        ways["MLflow's client"] = partial(_by_mlflow, sinks["spanferry"], uri)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        cpu_ms: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(-1, rounds):  # the first is for the caches
            order = list(ways)
            turn = number % len(order)
            for way in order[turn:] + order[:turn]:
                traces = make_traces(PAYLOAD, COUNTS[way] // scale)
                cpu = time.process_time()
                took_s = ways[way](traces)
                if number >= 0:
                    rates[way].append(round(len(traces) / took_s, 1))
                    cpu_ms[way].append((time.process_time() - cpu) / len(traces) * 1000)
    native = rates["MLflow's client"]
    return {
        way: {
            "per_second": rates[way],
            "times_mlflow": [round(a / b, 2) for a, b in zip(rates[way], native, strict=True)],
            "cpu_ms": round(statistics.median(cpu_ms[way]), 2),
        }
        for way in rates
    }


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write the JSON where it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few traces")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    with (
        PostgresServer(durable=True) as database,
        MlflowServer(database.new_database(), workers=2) as server,
    ):
        found = measure(server.uri, 3 if given.quick else 5, 5 if given.quick else 1)
    for way, row in found.items():
        rates, times = row["per_second"], row["times_mlflow"]
        print(
            f"{way:18} {statistics.median(rates):7.0f} traces/s ({min(rates):.0f}-{max(rates):.0f})"
            f"  {statistics.median(times):6.2f} times MLflow's client ({min(times):.2f}-{max(times):.2f})"
            f"  {row['cpu_ms']:6.2f} ms CPU of the client a trace",
            flush=True,
        )
    if given.out is not None:
        result = {"conditions": conditions("httpx", "uvloop"), "quick": given.quick, "ways": found}
        given.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
