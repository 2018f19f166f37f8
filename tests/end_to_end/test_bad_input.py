"""Bad input, all the way: a defined outcome for each, and everything else flows on."""

import asyncio
import http.server
import os
import subprocess
import sys
import textwrap
import threading
import time

import mlflow
import pytest
from aiokafka import AIOKafkaProducer
from mlflow import MlflowClient

from tests.end_to_end.program import expected
from tests.end_to_end.store import assert_stored, traces_of, wait_for_traces
from tests.producer.topic import read_topic
from tests.services.process import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]


def run_program(pipeline, body: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a few lines as an app that traces into the pipeline."""
    arguments = {
        "bootstrap_servers": pipeline.kafka.bootstrap_servers,
        "topic": pipeline.topic,
        "experiment": pipeline.experiment,
    } | options
    program = f"import spanferry\nspanferry.enable(**{arguments!r})\n" + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )


async def produce(pipeline, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=pipeline.kafka.bootstrap_servers)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(
                pipeline.topic, value, key=os.urandom(16), headers=[("mine", b"kept")]
            )
    finally:
        await producer.stop()


async def test_broken_records_go_to_the_dead_letters_and_the_rest_flows_on(shared):
    broken = {
        b"not a record at all": "unknown_version",
        b"\x01\x91\x01": "invalid",
        b"\x01\x92\x09\xc0": "unknown_event",
        b"\x01\xc1": "malformed",
    }
    account = await asyncio.to_thread(shared.run_app, 0, 30)
    await produce(shared, list(broken))
    account = await asyncio.to_thread(shared.run_app, 30, 30)
    assert account["traces_sent"] == 30
    found = await asyncio.to_thread(wait_for_traces, shared.tracking_uri, shared.experiment, 60)
    assert found.total() == len(found) == 60
    letters = []
    async with asyncio.timeout(100):
        while len(letters) < len(broken):  # they are held back for a second
            await asyncio.sleep(0.2)
            found = await asyncio.to_thread(
                read_topic, shared.kafka.bootstrap_servers, f"{shared.topic}.dlq"
            )
            letters = [letter for letter in found if ("mine", b"kept") in letter.headers]
    assert {letter.value for letter in letters} == set(broken)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["dlq.reason"].decode() == broken[letter.value]
        assert headers["dlq.topic"].decode() == shared.topic
        assert headers["dlq.message"]
        assert len(letter.key) == 16


def test_values_that_cannot_be_encoded_lose_no_trace(shared):
    done = run_program(
        shared,
        """
        import threading
        class Hostile:
            def __repr__(self): raise RuntimeError("repr")
            __str__ = __repr__
        cycle = {}
        cycle["self"] = cycle
        values = [Hostile(), cycle, threading.Lock(), {1: 2, (1, 2): 3}, "\\ud800", float("nan"),
                  10**40, {1, 2}, b"bytes", object, lambda: 0, open("/dev/null"), [Hostile()]]
        for number, value in enumerate(values):
            with spanferry.start_span("root", span_type="TOOL") as span:
                spanferry.update_current_trace(tags={"number": str(number)})
                span.set_inputs({"value": value})
                span.set_outputs(value)
        assert spanferry.flush(100)
        """,
    )
    assert "Traceback" not in done.stderr
    numbers = wait_for_traces(shared.tracking_uri, shared.experiment, 13)
    assert sorted(numbers) == list(range(13))
    for trace in traces_of(shared.tracking_uri, shared.experiment, 13).values():
        assert len(trace.data.spans) == 1
        assert trace.info.state.value == "OK"


def test_fifty_megabytes_arrive(shared):
    run_program(
        shared,
        """
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "0"})
            span.set_inputs({"big": "x" * 50_000_000})
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "1"})
        assert spanferry.flush(60)
        """,
        buffer_bytes=128 * 1024 * 1024,
    )
    wait_for_traces(shared.tracking_uri, shared.experiment, 2)
    found = traces_of(shared.tracking_uri, shared.experiment, 2)
    assert len(found[0].data.spans[0].inputs["big"]) == 50_000_000
    assert len(found[1].data.spans) == 1


def test_fifty_megabytes_in_a_smaller_buffer_are_dropped_and_counted(shared):
    done = run_program(
        shared,
        """
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "0"})
            span.set_inputs({"big": "x" * 50_000_000})
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "1"})
        assert spanferry.flush(100)
        account = spanferry.stats()
        assert account.dropped["oversize"] == 1 and account.traces_sent == 1, account
        """,
        buffer_bytes=16 * 1024 * 1024,
        payload_bytes_max=0,
    )
    assert "dropped" in done.stderr
    assert set(wait_for_traces(shared.tracking_uri, shared.experiment, 1)) == {1}


def test_fifty_megabytes_in_a_smaller_buffer_are_cut_with_a_mark(shared):
    run_program(
        shared,
        """
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "0"})
            span.set_inputs({"big": "x" * 50_000_000})
            span.set_outputs("kept")
        assert spanferry.flush(60)
        account = spanferry.stats()
        assert account.payloads_truncated == account.traces_sent == 1, account
        """,
        buffer_bytes=16 * 1024 * 1024,
    )
    wait_for_traces(shared.tracking_uri, shared.experiment, 1)
    (span,) = traces_of(shared.tracking_uri, shared.experiment, 1)[0].data.spans
    assert span.outputs == "kept"
    assert span.inputs.startswith('{"big":"xxx')
    assert len(span.inputs) < 8 * 1024 * 1024
    assert span.get_attribute("spanferry.cut") == {"mlflow.spanInputs": 50_000_010}


def test_spans_ended_twice_or_never(shared):
    run_program(
        shared,
        """
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "0"})
            child = spanferry.start_span_no_context("twice", parent_span=span)
            child.end()
            child.end()
        with spanferry.start_span("root") as span:
            spanferry.update_current_trace(tags={"number": "1"})
            spanferry.start_span_no_context("never", parent_span=span)
        assert spanferry.flush(100)
        """,
    )
    wait_for_traces(shared.tracking_uri, shared.experiment, 2, timeout_s=60)
    found = traces_of(shared.tracking_uri, shared.experiment, 2)
    assert sorted(span.name for span in found[0].data.spans) == ["root", "twice"]
    assert [span.name for span in found[1].data.spans] == ["root"]


def test_a_deleted_experiment_goes_to_the_dead_letters_with_the_remedy(shared):
    mlflow.set_tracking_uri(shared.tracking_uri)
    client = MlflowClient(shared.tracking_uri)
    client.delete_experiment(client.create_experiment(shared.experiment))
    shared.run_app(0, 5)
    letters = []
    deadline = time.monotonic() + 150
    while len(letters) < 5 and time.monotonic() < deadline:
        time.sleep(0.2)
        found = read_topic(shared.kafka.bootstrap_servers, f"{shared.topic}.dlq")
        messages = [dict(letter.headers)["dlq.message"].decode() for letter in found]
        letters = [message for message in messages if shared.experiment in message]
    assert len(letters) == 5
    assert "restore" in letters[0]


def test_a_tracking_uri_without_mlflow_behind_it_is_said_in_one_line(pipeline):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        done = run_worker(pipeline, f"http://127.0.0.1:{server.server_address[1]}")
        assert done.returncode == 3
        assert "MLflow" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_missing_topic_is_said_with_its_remedy_and_waited_for(pipeline):
    pipeline.topic = f"late-{pipeline.topic}"
    worker = pipeline.worker(ready=False)
    deadline = time.monotonic() + 150
    while "spanferry topics create" not in worker.log_tail() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert "spanferry topics create" in worker.log_tail()
    assert not worker.ready
    for name in (pipeline.topic, f"{pipeline.topic}.dlq"):
        pipeline.kafka.create_topic(name, 4)
    pipeline.run_app(0, 10)
    assert len(wait_for_traces(pipeline.tracking_uri, pipeline.experiment, 10)) == 10


def run_worker(pipeline, tracking_uri: str) -> subprocess.CompletedProcess[str]:
    """A worker that cannot start: it must say so and end."""
    return subprocess.run(
        [
            sys.executable,
            *("-m", "spanferry_worker", "worker"),
            f"--bootstrap-servers={pipeline.kafka.bootstrap_servers}",
            f"--topic={pipeline.topic}",
            f"--tracking-uri={tracking_uri}",
            f"--health-port={free_port()}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def test_a_worker_waits_for_mlflow_that_is_not_up_yet(pipelines, postgres_uri):
    from tests.services.mlflow import MlflowServer

    with MlflowServer(postgres_uri) as server:
        server.stop()
        pipeline = pipelines(server.uri)
        worker = pipeline.worker(ready=False)
        pipeline.run_app(0, 20)
        assert worker.running
        server.start()
        numbers = wait_for_traces(pipeline.tracking_uri, pipeline.experiment, 20)
        assert sorted(numbers) == list(range(20))
        assert_stored(
            traces_of(pipeline.tracking_uri, pipeline.experiment, 20), map(expected, range(20))
        )
