"""MLflow's ways to wait for a trace wait until it can be read, with all of its spans."""

import pytest

from spanferry.bridge import waiting

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

ROUNDS = 8
SPANS = 5
BOUND_S = 5.0
WAYS = ("get_trace", "search_traces", "flush")


@pytest.mark.parametrize("accelerate", [True, False])
def test_a_trace_is_there_after_a_flush(line, accelerate):
    done = line.run("read_back", line.new_experiment(), accelerate=accelerate)
    assert done["found"] == dict.fromkeys(("get_trace", "search_traces", "flush"), [SPANS] * ROUNDS)


def test_all_traces_of_a_burst_are_there_after_one_flush(line):
    done = line.run("read_back", line.new_experiment(), part="burst", bursts=5, count=60)
    assert done["found"] == [60] * 5


def test_as_natively(native):
    done = native.run("read_back", native.new_experiment(), rounds=1)
    assert done["found"] == {way: [SPANS] for way in WAYS}


def test_without_a_worker_the_wait_is_bounded_and_says_what_to_do(line):
    unread = line.kafka.create_topic(f"unread-{line.topic}", 1)
    assert waiting._STORED_S == 30
    done = line.run(
        "read_back",
        line.new_experiment(),
        topic=unread,
        part="without_a_worker",
        bound_s=BOUND_S,
    )
    assert done["missing"]
    assert BOUND_S <= done["waited_s"] < 3 * BOUND_S
    assert "1 traces are in Kafka, but not in MLflow" in done.errors
    assert "does the worker run" in done.errors
