"""Real Kafka, a real worker process and a real database: too much, too slow, and all restarted."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from benchmarks.overload import measure
from spanferry_worker.services.mlflow_sink import open_sink
from tests.end_to_end.program import expected
from tests.end_to_end.store import assert_stored, stored_numbers, traces_of, wait_for_traces
from tests.services.kafka import KafkaServer
from tests.services.worker import SpanferryWorker
from tests.sinks.stores import ids, span, trace

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.mlflow,
    pytest.mark.chaos,
    pytest.mark.timeout(400),
]

MB = 1024 * 1024
REBALANCES = "spanferry_consume_rebalances_total"
FIRST = 200
"""Numbers from here on have no giants among them."""


def assert_all_once(pipeline, count: int) -> None:
    wanted = Counter(range(FIRST, FIRST + count))
    found = wait_for_traces(pipeline.tracking_uri, pipeline.experiment, count, timeout_s=180)
    assert found == wanted
    time.sleep(2)  # a second copy would come after the first
    assert stored_numbers(pipeline.tracking_uri, pipeline.experiment) == wanted


def lag_of(workers) -> float:
    """Records that wait, as the workers say every few seconds."""
    return sum(
        value
        for worker in workers
        for name, value in worker.metrics().items()
        if name.startswith("spanferry_consume_lag_records{")
    )


def test_memory_stays_within_the_limit_and_150_mb(kafka: KafkaServer, sqlite_uri: str):
    """Ten times what the store takes, and a limit for the whole process that leaves little to hold."""
    limit_bytes = 320 * MB
    figures = measure(kafka, sqlite_uri, traffic="mixed", seconds=20, limit_bytes=limit_bytes)
    left_mb = figures.limit_mb - figures.idle_mb
    assert figures.paused_share > 0, "the limit was not reached"
    assert figures.times > 2
    assert 10 < left_mb < 150, "it is to be the limit of the process that counts"
    assert figures.held_peak_mb < left_mb + 40
    assert figures.beyond_mb < 150, figures
    assert figures.dead == 0


def test_the_store_away_for_longer_than_sessions_last(pipelines, postgres):
    """Intake stands, the worker stays in its group, and nothing is lost."""
    pipeline = pipelines(postgres.new_database())
    count = 600
    worker = pipeline.worker(
        "--set=kafka.poll_interval_max_s=7",
        "--set=consume.held_bytes_max=3000000",
        "--set=consume.poll_bytes_max=1000000",
        "--set=assemble.bytes_max=1500000",
        "--set=decode.chunk_bytes_max=1500000",
        "--set=retry.retry_max_s=2",
    )
    rebalances = worker.metrics()[REBALANCES]
    postgres.stop()
    app = pipeline.start_app(FIRST, count)
    try:
        deadline = time.monotonic() + 150
        while not worker.metrics()["spanferry_consume_paused"]:
            assert time.monotonic() < deadline, "intake never stood"
            time.sleep(0.2)
        time.sleep(13)  # session.timeout 6 s, max.poll.interval 7 s, and 5 s before it pauses
        metrics = worker.metrics()
        assert metrics["spanferry_consume_paused"] == 1
        assert not worker.ready
        read = metrics["spanferry_consume_records_total"]
    finally:
        postgres.start()
    pipeline.finish(app)
    assert_all_once(pipeline, count)
    metrics = worker.metrics()
    assert read < count
    assert metrics[REBALANCES] == rebalances, "it left its group meanwhile"
    assert metrics["spanferry_consume_records_total"] < count * 1.5, "it read all again"
    assert not metrics.get('spanferry_consume_stalls_total{stage="consume"}')
    dead = [v for name, v in metrics.items() if name.startswith("spanferry_dead_letters_total{")]
    assert sum(dead) == 0


LASTING = ("--set=kafka.session_timeout_s=120",)
"""A restart takes longer than QUICK_SESSION lasts, on a busy machine by far."""


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_all_workers_are_restarted_one_after_another_under_load(pipelines, postgres_uri, named):
    """With names the others do not notice; without, each that leaves has all partitions dealt out anew."""
    pipeline = pipelines(postgres_uri)
    options = [(f"--group-instance-id=worker-{n}", *LASTING) if named else () for n in range(2)]
    workers = [pipeline.worker(*each, ready=False) for each in options]
    for worker in workers:
        worker.wait()
    app = pipeline.start_app(FIRST, count := 400, rate=20)
    wait_for_traces(pipeline.tracking_uri, pipeline.experiment, 20, timeout_s=60)
    for number, each in enumerate(options):
        others = [worker for worker in workers if worker is not workers[number]]
        before = rebalances(others)
        workers[number].stop()
        if not named:
            wait_until(lambda: rebalances(others) > before, "nobody has noticed that it left")  # noqa: B023
        workers[number] = pipeline.worker(*each)
        if named:
            assert rebalances(others) == before, "others were disturbed"
    assert pipeline.finish(app)["traces_sent"] == count
    assert_all_once(pipeline, count)
    wanted = map(expected, range(FIRST, FIRST + count))
    assert_stored(traces_of(pipeline.tracking_uri, pipeline.experiment, count), wanted)
    wait_until(lambda: not lag_of(workers), "lag does not recover")


def test_processes_under_one_name_store_everything_though_one_is_killed(pipelines, postgres_uri):
    """The supervisor gives the next one the name of the dead one, so its sister is not disturbed."""
    pipeline = pipelines(postgres_uri)
    fleet = pipeline.worker("--processes=2", "--group-instance-id=fleet", *LASTING)
    app = pipeline.start_app(FIRST, count := 300, rate=30)
    wait_until(lambda: all(written(fleet, n) for n in range(2)), "a process stores nothing")
    sister = f'{REBALANCES}{{process="1"}}'
    before = fleet.metrics()[sister]
    os.kill(process_called(fleet, "fleet-0"), signal.SIGKILL)
    restarts = 'spanferry_supervisor_restarts_total{process="0"}'
    wait_until(
        lambda: fleet.metrics()[restarts] == 1 and written(fleet, 0), "it does not come back"
    )
    assert fleet.ready
    assert fleet.metrics()[sister] == before
    assert pipeline.finish(app)["traces_sent"] == count
    assert_all_once(pipeline, count)


def rebalances(workers: Iterable[SpanferryWorker]) -> float:
    """How often partitions were dealt out to them."""
    return sum(worker.metrics()[REBALANCES] for worker in workers)


def written(fleet: SpanferryWorker, process: int) -> float:
    """Traces stored by a process; 0 where it does not answer."""
    name = f'spanferry_write_traces_total{{process="{process}"}}'
    return fleet.metrics().get(name, 0.0)


def process_called(fleet: SpanferryWorker, name: str) -> int:
    """The process of a supervisor that joins the group by this name."""
    children = Path(f"/proc/{fleet.pid}/task/{fleet.pid}/children").read_text().split()
    [found] = [
        pid for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    ]
    return int(found)


def wait_until(condition: Callable[[], object], otherwise: str, timeout_s: float = 120.0) -> None:
    """Look until it is so; fails with what is `otherwise`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


async def test_fifty_thousand_spans_of_one_trace_in_a_real_database(
    sqlite_uri: str, tmp_path: Path
):
    """Beside small ones, and added to afterwards."""
    names = ids(50_000)
    value = {"mlflow.spanInputs": b'"a question"'}
    spans = [span(name, names[0] if i else None, attributes=value) for i, name in enumerate(names)]
    giant = trace(spans[:-10])
    small = [trace([span(name, None, attributes=value)]) for name in ids(20)]
    rest = msgspec.structs.replace(giant, spans=spans[-10:])
    sink = open_sink(sqlite_uri, default_experiment="giants")
    await sink.open()
    try:
        await sink.write([*small[:10], giant, *small[10:]])
        await sink.write([rest])
    finally:
        await sink.close()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(sqlite_uri, str(tmp_path))
    stored = {one.trace_id: one for one in store.search_traces(["1"], max_results=100)[0]}
    assert len(stored) == 21
    info = stored[f"tr-{giant.trace_id.hex()}"]
    assert '"num_spans": 50000' in info.trace_metadata["mlflow.trace.sizeStats"]
    store.engine.dispose()
