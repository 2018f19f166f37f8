"""The programs run natively and through spanferry, with three versions of MLflow in the app.

What goes through Kafka is stored four times: by a worker through the tracking server to which the native
runs go, while they run, and then by one straight into each kind of database.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tests.mlflow_api.canonical import canonical, paths
from tests.mlflow_api.databases import SERVED, Database, copy_experiments, working_on
from tests.mlflow_api.other_mlflows import NEWEST_MLFLOW, OLDEST_MLFLOW, python_with
from tests.mlflow_api.registry import load_programs
from tests.mlflow_api.rows import Rows, read_rows, rows_of_experiments
from tests.mlflow_api.stored import StoredTrace, read_traces
from tests.services.mlflow import ONE_WRITE_A_TRACE
from tests.services.worker import SpanferryWorker

__all__ = ["MODES", "RUNS", "VERSIONS", "AllRuns", "Place", "Run", "Times", "run_all"]

ROOT = Path(__file__).parents[2]
INSTALLED_MLFLOW = "3.17.2"
VERSIONS = (INSTALLED_MLFLOW, OLDEST_MLFLOW, NEWEST_MLFLOW)
MODES = ("plain", "accelerated")
RUNS = [(version, mode) for mode in ("native", *MODES) for version in VERSIONS]
AT_ONCE = 3
RUN_TIMEOUT_S = 400
IDLE_TIMEOUT_S = 200
POLL_S = 0.3
READ = "spanferry_consume_records_total"
IDLE = (
    "spanferry_consume_lag_records",
    "spanferry_assemble_open_traces",
    "spanferry_commit_undecided_records",
)


class Place(NamedTuple):
    """Where all runs store."""

    tracking_uri: str
    backend_uri: str
    bootstrap_servers: str
    topic: str
    databases: Sequence[Database]
    """Beside the server."""
    options: tuple[str, ...]
    """Of every worker."""


Times = dict[str, tuple[int, int | None]]
"""Start and end of each span of a trace in nanoseconds since 1970, by its place in the tree."""


class Run(NamedTuple):
    """One mode with one version: what its programs returned and stored."""

    report: dict[str, Any]
    programs: dict[str, dict[str, Any]]
    """In canonical words."""
    times: dict[str, list[Times]]
    """By program, one for each of its traces."""


class AllRuns(NamedTuple):
    """All of them, as they are read from each place."""

    server: dict[tuple[str, str], Run]
    """By version and mode."""
    databases: dict[tuple[str, str], Run]
    """By name and mode: what the newest version has sent through Kafka."""
    rows: dict[str, Rows]
    """By the database's name: of all that any version has sent through Kafka; "" is the server's."""


def prefix_of(version: str, mode: str) -> str:
    """Of a run's experiments: a word that no program uses, always of one length."""
    return f"zz{VERSIONS.index(version)}{mode[0]}"


def natively(version: str) -> dict[str, str]:
    """How MLflow's own SDK stores the same in every run, without taking minutes for it.

    Before 3.17 every change of the experiment leaves threads behind, and each flush then waits a
    second for each of them: there the SDK sends at once.
    """
    at_once = {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false", "MLFLOW_MODEL_CATALOG_URI": ""}
    return at_once if version == OLDEST_MLFLOW else ONE_WRITE_A_TRACE


def execute(place: Place, version: str, mode: str) -> dict[str, Any]:
    """Run all programs in a process of their own: the runner's report."""
    python = sys.executable if version == INSTALLED_MLFLOW else python_with(version)
    options = {
        "mode": mode,
        "prefix": prefix_of(version, mode),
        "tracking-uri": place.tracking_uri,
        "bootstrap-servers": place.bootstrap_servers,
        "topic": place.topic,
    }
    command = [str(python), "-m", "tests.mlflow_api.run"]
    done = subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        cwd=ROOT,
        env={**os.environ, **(natively(version) if mode == "native" else {})},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{version} {mode}: {done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def wait_until_idle(worker: SpanferryWorker, records: float = 0) -> float:
    """Return when the worker has stored all that is in Kafka, at least so many records: how many."""
    deadline = time.monotonic() + IDLE_TIMEOUT_S
    quiet = 0
    while quiet < 2:
        assert worker.running, worker.log_tail()
        metrics = worker.metrics()
        waiting = {
            name: value for name, value in metrics.items() if name.startswith(IDLE) and value
        }
        if metrics[READ] < records:
            waiting[READ] = metrics[READ]
        quiet = 0 if waiting else quiet + 1
        assert time.monotonic() < deadline, f"{waiting}\n{worker.log_tail()}"
        time.sleep(POLL_S)
    return metrics[READ]


def make_experiments(backend_uri: str) -> None:
    """Those that the programs set, at once: over HTTP they would take much of the test's time."""
    store = SqlAlchemyStore(backend_uri, SERVED)
    now = time.time_ns() // 1_000_000
    with store.ManagedSessionMaker(read_only=False) as session:
        made = [
            SqlExperiment(
                name=f"{prefix_of(version, mode)}-{program}",
                lifecycle_stage="active",
                creation_time=now,
                last_update_time=now,
            )
            for version, mode in RUNS
            for program in load_programs()
        ]
        session.add_all(made)
        session.flush()
        for one in made:
            one.artifact_location = f"{SERVED}{one.experiment_id}"
    store.engine.dispose()


def run_all(place: Place, worker: SpanferryWorker) -> AllRuns:
    """Every mode with every version. The worker is the server's."""
    make_experiments(place.backend_uri)
    for version in (OLDEST_MLFLOW, NEWEST_MLFLOW):
        python_with(version)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda one: execute(place, *one), RUNS))
    reports = dict(zip(RUNS, found, strict=True))
    copy_experiments(place.backend_uri, place.databases)
    with working_on(
        place.databases,
        bootstrap_servers=place.bootstrap_servers,
        topic=place.topic,
        options=place.options,
    ) as others:
        records = wait_until_idle(worker)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            runs = list(pool.map(lambda one: read(place.tracking_uri, one, reports[one]), RUNS))
        for other in others:
            other.wait()
            wait_until_idle(other, records)
    databases = {
        (one.name, mode): read(one.uri, (NEWEST_MLFLOW, mode), reports[NEWEST_MLFLOW, mode])
        for one in place.databases
        for mode in MODES
    }
    sent = tuple(f"{prefix_of(*one)}-" for one in RUNS if one[1] in MODES)
    rows = {one.name: read_rows(one.uri) for one in place.databases}
    rows[""] = rows_of_experiments(read_rows(place.backend_uri), sent)
    return AllRuns(dict(zip(RUNS, runs, strict=True)), databases, rows)


def read(uri: str, which: tuple[str, str], report: dict[str, Any]) -> Run:
    """What a run has left there."""
    prefix = prefix_of(*which)
    found = read_traces(uri, prefix)
    times = {name: list(map(times_of, traces)) for name, traces in found.items()}
    return Run(report, dict(in_words(prefix, report, found)), times)


def times_of(stored: StoredTrace) -> Times:
    """What canonical words leave out."""
    return {
        path: (span.start_time_ns, span.end_time_ns)
        for span, path in paths(stored.trace.data.spans)
    }


def in_words(
    prefix: str, report: dict[str, Any], found: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    programs = load_programs()
    for name, result in report["results"].items():
        concurrent = programs[name].concurrent
        yield name, canonical(prefix, found.get(name, []), result, concurrent=concurrent)
