"""The example service: what its traces look like, and that the demo's stop watch changes nothing."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

import spanferry.testing
from spanferry.testing import CapturedTrace

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADERS = {"X-Request-ID": "r1", "X-Session-ID": "s1", "X-User-ID": "ann"}
QUESTION = "When are refunds paid back?"

METERED = """
import asyncio, json, time
import demo_app, httpx, spanferry.testing

async def main():
    transport = httpx.ASGITransport(demo_app.app)
    with spanferry.testing.capture() as captured:
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            for number in range(60):
                path = "/chat/stream" if number % 3 == 0 else "/chat"
                headers = {"X-Request-ID": f"r{number}"}
                body = {"message": f"Question {number}", "history": []}
                await client.post(path, json=body, headers=headers)
            requests = (await client.get("/demo/requests")).json()
    spans = {trace.client_request_id: len(trace.spans) for trace in captured.traces}
    print(json.dumps({"requests": requests, "spans": spans}))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def service() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chat_service", EXAMPLES / "chat_service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def client(service: ModuleType) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        yield http


def tree(trace: CapturedTrace) -> list[tuple[str, str, str | None]]:
    names = {span.span_id: span.name for span in trace.spans}
    parents = [names.get(span.parent_id or "") for span in trace.spans]
    return [
        (span.name, span.span_type, parent)
        for span, parent in zip(trace.spans, parents, strict=True)
    ]


async def test_a_chat_is_one_trace_with_all_that_one_searches_by(client: httpx.AsyncClient) -> None:
    with spanferry.testing.capture() as captured:
        response = await client.post("/chat", json={"message": QUESTION}, headers=HEADERS)
    (trace,) = captured.traces
    assert response.json()["trace_id"] == trace.trace_id
    assert sorted(tree(trace)) == [
        ("POST /chat", "SERVER", None),
        ("chat", "AGENT", "POST /chat"),
        ("embed", "EMBEDDING", "retrieve"),
        ("parrot-1", "CHAT_MODEL", "chat"),
        ("retrieve", "RETRIEVER", "chat"),
    ]
    assert trace.client_request_id == "r1"
    assert trace.metadata["mlflow.trace.session"] == "s1"
    assert trace.metadata["mlflow.trace.user"] == "ann"
    assert trace.tags["topic"] == "refunds"
    assert trace.part.request_preview == QUESTION
    assert trace.part.response_preview == response.json()["answer"]
    model = next(span for span in trace.spans if span.span_type == "CHAT_MODEL")
    assert model.attributes["mlflow.chat.tokenUsage"]["total_tokens"] > 10
    retriever = next(span for span in trace.spans if span.span_type == "RETRIEVER")
    assert retriever.outputs[0]["metadata"]["doc_uri"] == "kb://billing/refunds"


async def test_a_stream_is_recorded_word_by_word_and_whole(client: httpx.AsyncClient) -> None:
    with spanferry.testing.capture() as captured:
        response = await client.post("/chat/stream", json={"message": QUESTION}, headers=HEADERS)
    (trace,) = captured.traces
    agent = next(span for span in trace.spans if span.span_type == "AGENT")
    assert agent.outputs == response.text == trace.part.response_preview
    assert len(agent.events) == len(response.text.split())


async def test_an_overloaded_model_is_an_error_of_the_trace(
    client: httpx.AsyncClient, service: ModuleType
) -> None:
    with spanferry.testing.capture() as captured:
        for number in range(200):
            response = await client.post("/chat", json={"message": f"Question {number}"})
            if response.status_code == 503:
                break
    assert response.json() == {"detail": f"{service.MODEL} is overloaded, try again later"}
    status = {span.name: span.status.status_code for span in captured.traces[-1].spans}
    assert status["POST /chat"] == status["chat"] == status["parrot-1"] == "ERROR"
    assert status["retrieve"] == "OK"


async def test_feedback_is_by_request_and_traces_nothing(client: httpx.AsyncClient) -> None:
    with spanferry.testing.capture() as captured:
        response = await client.post(
            "/chat_feedback",
            params={"client_request_id": "r1"},
            json={"is_correct": False, "comment": "no"},
            headers={"X-User-ID": "ann"},
        )
        stats = await client.get("/stats")
    (assessment,) = captured.assessments
    assert response.status_code == 202
    assert assessment.event.client_request_id == "r1"
    assert assessment.event.value == b"false"
    assert (assessment.event.source_type, assessment.event.source_id) == ("HUMAN", "ann")
    assert (assessment.name, assessment.event.rationale) == ("response_is_correct", "no")
    assert captured.traces == []
    assert "traces_dropped" in stats.json()


def test_the_stop_watch_counts_every_span_and_changes_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", METERED], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    counted = json.loads(done.stdout)
    assert {request: spans for request, (spans, _) in counted["requests"].items()} == counted[
        "spans"
    ]
    assert len(counted["spans"]) == 60
    assert all(0 < ns < 2_000_000_000 for _, ns in counted["requests"].values())
