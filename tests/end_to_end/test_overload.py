"""Real Kafka, a real worker process and a real database: too much, too slow, and all restarted."""

import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from benchmarks.overload import measure
from spanferry_worker.services.mlflow_sink import open_sink
from tests.end_to_end.store import stored_numbers, wait_for_traces
from tests.services.kafka import KafkaServer
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
    """Ten times what the store takes; beside the limit an idle worker with MLflow takes its part."""
    figures = measure(
        kafka,
        sqlite_uri,
        traffic="mixed",
        seconds=20,
        limit_bytes=32 * MB,
    )
    assert figures.paused_share > 0, "the limit was not reached"
    assert figures.times > 2
    assert figures.held_peak_mb < figures.limit_mb + 40
    assert figures.peak_mb < figures.idle_mb + figures.limit_mb + 150, figures
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
        deadline = time.monotonic() + 60
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


def test_all_workers_are_restarted_one_after_another_under_load(pipelines, postgres_uri):
    pipeline = pipelines(postgres_uri)
    count = 500
    workers = [pipeline.worker(ready=False) for _ in range(3)]
    app = pipeline.start_app(FIRST, count, rate=30)
    wait_for_traces(pipeline.tracking_uri, pipeline.experiment, 20, timeout_s=60)
    for worker in workers:
        worker.stop()
        pipeline.worker()
    account = pipeline.finish(app)
    assert account["traces_sent"] == count
    assert_all_once(pipeline, count)
    running = [worker for worker in pipeline.workers if worker.running]
    assert len(running) == 3
    deadline = time.monotonic() + 60
    while lag_of(running):
        assert time.monotonic() < deadline, "lag does not recover"
        time.sleep(0.5)


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
