"""Rounds: each way in turn writes the same kind of traces, and wall time and CPU are taken of it."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.store_traces import MAKES, make_traces
from benchmarks.stores_cpu import tree_cpu_s
from benchmarks.stores_postgres import IDLE_S, counted, counters
from benchmarks.stores_report import Row
from benchmarks.stores_ways import IN_PROCESSES, LZ4, Store
from spanferry_worker.runtime.allocator import collect_rarely

__all__ = ["Case", "Pids", "cases", "filled_case", "measure", "pages"]

BATCH = 200
"""Traces in a batch: the worker's default."""
BATCH_BYTES = 8_000_000
"""... and what ends one before."""


class Case(NamedTuple):
    """Payload, size of a batch, how many traces each way is given a round, and rounds."""

    payload: str
    batch: int
    counts: Mapping[str, int]
    rounds: int


class Pids(NamedTuple):
    """Of the processes that are watched; 0 is none."""

    database: int = 0
    server: int = 0


class Taken(NamedTuple):
    """One way in one round."""

    seconds: float
    client_s: float
    database_s: float
    server_s: float


def cases(concurrency: int, *, quick: bool) -> Iterator[Case]:
    """Into tables that are empty. The worker's sink gets many times as many batches as it writes at once:
    with two for each writer all of them make rows first, and at last all of them wait for the database."""
    scale, rounds = (8, 2) if quick else (1, 5)
    usual = {
        "raw": 6400, "spanferry": 6400, LZ4: 6400, IN_PROCESSES: 6400, "spanferry, MLflow's methods": 200,
        "MLflow": 64, "spanferry, MLflow's server": 800, "MLflow, its server": 64,
    }  # fmt: skip
    yield Case("10 KB", BATCH, {way: count // scale for way, count in usual.items()}, rounds)
    if quick:
        return
    fast = ("raw", "spanferry")
    for batch, count in ((1, 200), (10, 1000), (50, 3200), (2000, 4000 * concurrency)):
        yield Case("10 KB", batch, dict.fromkeys(fast, count), 3)
    for payload, count in (("1 KB", 6400), ("100 KB", 1600), ("1 MB", 96)):
        batch = min(BATCH, BATCH_BYTES // MAKES[payload])
        yield Case(payload, batch, dict.fromkeys((*fast, LZ4, IN_PROCESSES), count), 3)


def filled_case(*, quick: bool) -> Case:
    """Into tables that are full and empty ones, in the same rounds."""
    scale, rounds = (8, 2) if quick else (1, 5)
    counts = {"raw": 3200, "spanferry": 3200, "MLflow": 64}
    return Case("10 KB", BATCH, {way: count // scale for way, count in counts.items()}, rounds)


def measure(case: Case, stores: Sequence[Store], pids: Pids) -> list[Row]:
    """Every way of the case into every one of the stores, which are of one kind: empty, filled."""
    collect_rarely()  # as a worker does once its store is open
    subjects = [(store, way) for store in stores for way in case.counts if store.goes(way)]
    taken: dict[tuple[int, str], list[Taken]] = {(one.stored, way): [] for one, way in subjects}
    made = make_traces(case.payload, case.counts["raw"])
    size = sum(one.size for one in made) // len(made)
    for number in range(-1, case.rounds):  # the first is for the caches
        turn = number % len(subjects)
        for store, way in subjects[turn:] + subjects[:turn]:
            with contextlib.ExitStack() as stack:
                run = _prepared(store, way, case, stack)
                one = _timed(run, pids, store.writers.pids if store.writers else ())
            if number >= 0:
                taken[store.stored, way].append(one)
    rows: list[Row] = []
    for store, way in subjects:
        own = taken[store.stored, way]
        traces = case.counts[way]
        per_second = _rates(own, traces)
        raw = _rates(taken[store.stored, "raw"], case.counts["raw"])
        empty = _rates(taken.get((0, way), []), traces) if store.stored else []
        served = way.endswith("server")
        rows.append(
            Row(
                store=store.name,
                way=way,
                payload=case.payload,
                batch=case.batch,
                traces=traces,
                per_second=per_second,
                of_raw=_by(per_second, raw),
                cpu_ms=_ms([one.client_s for one in own], traces),
                database_cpu_ms=_ms([one.database_s for one in own], traces)
                if pids.database
                else None,
                server_cpu_ms=_ms([one.server_s for one in own], traces) if served else None,
                trace_bytes=size,
                stored=store.stored,
                settings=store.settings,
                beside_full=len(stores) > 1,
                of_empty=_by(per_second, empty) if empty else [],
            )
        )
    return rows


def _prepared(
    store: Store, way: str, case: Case, stack: contextlib.ExitStack
) -> Callable[[], None]:
    """What is to be timed."""
    if way == IN_PROCESSES:
        assert store.writers
        return store.writers.prepared(case.payload, case.counts[way], case.batch)
    made = make_traces(case.payload, case.counts[way])
    batches = [made[at : at + case.batch] for at in range(0, len(made), case.batch)]
    return store.ways[way](batches, stack)


def _timed(run: Callable[[], None], pids: Pids, writers: Sequence[int]) -> Taken:
    def clients_s() -> float:
        return time.process_time() + sum(map(tree_cpu_s, writers))

    server_s, database_s = tree_cpu_s(pids.server), tree_cpu_s(pids.database)
    client_s, start = clients_s(), time.perf_counter()
    run()
    seconds, client_s = time.perf_counter() - start, clients_s() - client_s
    return Taken(
        seconds,
        client_s,
        tree_cpu_s(pids.database) - database_s,
        tree_cpu_s(pids.server) - server_s,
    )


def _rates(taken: Sequence[Taken], traces: int) -> list[float]:
    return [round(traces / one.seconds, 1) for one in taken]


def _by(figures: Sequence[float], others: Sequence[float]) -> list[float]:
    return [round(one / other, 3) for one, other in zip(figures, others, strict=True)]


def _ms(seconds: Sequence[float], traces: int) -> float:
    return round(statistics.median(seconds) / traces * 1000, 3)


def pages(store: Store, case: Case) -> dict[str, float]:
    """What PostgreSQL counts for a trace that the worker stores; empty for other databases."""
    before = counters(store.uri)
    if not before:
        return {}
    traces = 4 * case.counts["spanferry"]
    made = make_traces(case.payload, traces)
    batches = [made[at : at + case.batch] for at in range(0, traces, case.batch)]
    with contextlib.ExitStack() as stack:
        store.ways["spanferry"](batches, stack)()
    time.sleep(IDLE_S)
    found = counted(before, counters(store.uri))
    return {name: round(value / traces, 3) for name, value in found.items()}
