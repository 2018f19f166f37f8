"""The main job: a thousand traces of every kind, from 10 B to 10 MB, read back through MLflow."""

from collections import Counter

import pytest

from tests.end_to_end.program import expected
from tests.end_to_end.store import assert_stored, traces_of, wait_for_traces

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow, pytest.mark.timeout(400)]

COUNT = 1_000


@pytest.mark.parametrize("store", ["sqlite", "postgres", "server"])
def test_every_trace_reads_back_as_it_was_made(pipelines, request, store):
    if store == "server":
        pipeline = pipelines(request.getfixturevalue("mlflow_server").uri)
        count = 200  # the giants among them are enough of HTTP
    else:
        pipeline = pipelines(request.getfixturevalue(f"{store}_uri"))
        count = COUNT
    pipeline.worker()
    account = pipeline.run_app(0, count)
    assert account["flushed"] is True
    assert account["traces_sent"] == count
    numbers = wait_for_traces(pipeline.tracking_uri, pipeline.experiment, count, timeout_s=240)
    assert numbers == Counter(range(count))
    assert_stored(
        traces_of(pipeline.tracking_uri, pipeline.experiment, count), map(expected, range(count))
    )
