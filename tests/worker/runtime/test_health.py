"""/healthz, /readyz, /metrics, and their merging over processes."""

import asyncio

import orjson
import pytest

from spanferry_worker.runtime.exposition import merge_expositions
from spanferry_worker.runtime.health import HealthServer, fetch, json_answer
from spanferry_worker.runtime.pages import worker_pages
from spanferry_worker.services.metrics import Metrics
from tests.worker.events import send, whole
from tests.worker.runtime.harness import Harness, until

HOST = "127.0.0.1"


async def serve(pages) -> tuple[HealthServer, int]:
    server = HealthServer(pages, host=HOST, port=0)
    return server, await server.open()


async def ask(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.both_loops
async def test_a_page_is_served():
    async def page():
        return json_answer(False, problem="none of yours")

    server, port = await serve({"/x": page})
    answer = await fetch(HOST, port, "/x?y=1")
    assert answer is not None
    assert (answer.status, orjson.loads(answer.body)["ok"]) == (503, False)
    await server.close()
    assert await fetch(HOST, port, "/x") is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /x HTTP/1.1\r\n\r\n", b"405"),
        (b"\xff\xfe\r\n\r\n", b"405"),
        (b"GET /" + b"x" * 100_000 + b"\r\n\r\n", b""),
    ],
)
async def test_other_requests_are_answered_or_cut_off(request_, status):
    server, port = await serve({})
    answer = await ask(port, request_)
    assert answer[9:12] == status
    await server.close()


async def test_a_worker_says_how_it_is():
    harness = Harness(partitions=2)
    worker = harness.pipeline()
    server, port = await serve(worker_pages(worker, worker._parts.metrics, harness.clock))

    async def page(path: str):
        answer = await fetch(HOST, port, path)
        assert answer is not None
        return answer.status, orjson.loads(answer.body)

    status, body = await page("/readyz")
    assert (status, body["state"]) == (503, "starting")
    async with harness.running(worker):
        await until(lambda: worker.state == "ready")
        status, body = await page("/readyz")
        assert (status, body["partitions"], body["problem"]) == (200, [0, 1], None)
        harness.sink.transient_failures = 10**9
        send(harness.broker, whole(1))
        await until(lambda: worker.writer.failing_since_ms)
        status, body = await page("/readyz")
        assert status == 503
        assert "the store has been failing" in body["problem"]
        assert (await page("/healthz"))[0] == 200
        harness.sink.transient_failures = 0
        await until(harness.all_committed)
        assert (await page("/readyz"))[0] == 200
        worker.watch.stuck = "a write"
        assert (await page("/healthz"))[0] == 503
        metrics = await fetch(HOST, port, "/metrics")
        assert metrics is not None
        assert b"spanferry_write_traces_total 1.0" in metrics.body
    await server.close()


def test_metrics_of_processes_are_one_page():
    pages = []
    for process in ("0", "1"):
        metrics = Metrics()
        metrics.write_traces.inc(5)
        metrics.dead_letters.labels("invalid").inc()
        pages.append((process, metrics.exposition().decode()))
    lines = merge_expositions(pages).splitlines()
    assert lines.count("# TYPE spanferry_write_traces_total counter") == 1
    first = lines.index('spanferry_write_traces_total{process="0"} 5.0')
    assert lines[first + 1] == 'spanferry_write_traces_total{process="1"} 5.0'
    assert 'spanferry_dead_letters_total{process="1",reason="invalid"} 1.0' in lines
    samples = [line for line in lines if not line.startswith("#")]
    assert len(samples) == len(set(samples))
