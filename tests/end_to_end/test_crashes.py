"""Workers come, go and are killed: nothing is lost and nothing is there twice."""

import time
from collections import Counter

import pytest

from tests.end_to_end.program import expected
from tests.end_to_end.store import assert_stored, stored_numbers, traces_of, wait_for_traces
from tests.services.kafka import KafkaServer

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.mlflow,
    pytest.mark.chaos,
    pytest.mark.timeout(400),
]


def some_stored(pipeline, count: int) -> None:
    """Wait until the worker is in the middle of it."""
    numbers = wait_for_traces(pipeline.tracking_uri, pipeline.experiment, count, timeout_s=60)
    assert numbers.total() >= count


def assert_all_there(pipeline, count: int) -> None:
    numbers = wait_for_traces(pipeline.tracking_uri, pipeline.experiment, count, timeout_s=180)
    assert numbers == Counter(range(count))
    time.sleep(3)  # a second copy would come after the first
    assert stored_numbers(pipeline.tracking_uri, pipeline.experiment) == Counter(range(count))
    assert_stored(
        traces_of(pipeline.tracking_uri, pipeline.experiment, count), map(expected, range(count))
    )


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(pipelines, sqlite_uri):
    """On PostgreSQL that is among the faults of tests/chaos."""
    pipeline = pipelines(sqlite_uri)
    count = 400
    worker = pipeline.worker()
    app = pipeline.start_app(0, count, rate=100)
    for stored in (20, 120):
        some_stored(pipeline, stored)
        worker.kill()
        worker = pipeline.worker()
    assert pipeline.finish(app)["traces_sent"] == count
    assert_all_there(pipeline, count)


def test_workers_join_and_leave_while_traces_flow(pipelines, postgres_uri):
    pipeline = pipelines(postgres_uri)
    count = 600
    first = pipeline.worker()
    app = pipeline.start_app(0, count, rate=60)
    some_stored(pipeline, 50)
    second = pipeline.worker()
    some_stored(pipeline, 200)
    first.stop()
    some_stored(pipeline, 300)
    second.kill()
    pipeline.worker()
    assert pipeline.finish(app)["traces_sent"] == count
    assert_all_there(pipeline, count)


def test_kafka_gone_for_a_while(pipelines, sqlite_uri):
    count = 300
    with KafkaServer() as kafka:
        pipeline = pipelines(sqlite_uri)
        pipeline.kafka = kafka
        kafka.create_topic(pipeline.topic, 4)
        pipeline.worker()
        app = pipeline.start_app(0, count, rate=50)
        some_stored(pipeline, 20)
        kafka.kill()
        time.sleep(4)
        kafka.start()
        account = pipeline.finish(app)
        assert account["traces_sent"] == count
        assert account["traces_dropped"] == 0
        assert account["slowest_s"] < 2, "the app waited for Kafka"
        assert_all_there(pipeline, count)


def test_the_database_gone_for_a_while(pipelines, postgres):
    pipeline = pipelines(postgres.new_database())
    count = 300
    worker = pipeline.worker()
    app = pipeline.start_app(0, count, rate=60)
    some_stored(pipeline, 20)
    postgres.stop()
    time.sleep(5)
    postgres.start()
    pipeline.finish(app)
    assert_all_there(pipeline, count)
    assert worker.running
    poisoned = {name: value for name, value in worker.metrics().items() if "dead_letter" in name}
    assert all(value == 0 for name, value in poisoned.items() if "_created" not in name), poisoned
