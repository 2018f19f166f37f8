"""The README's programs run, and do what the README says."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import spanferry
from spanferry.testing import capture
from spanferry_worker.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The programs as they stand there. Kafka is not there, which the app must not notice."""
    monkeypatch.setenv("SPANFERRY_EXIT_TIMEOUT_S", "0.1")
    program = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    names: dict[str, Any] = {"__name__": "readme"}
    exec(program.replace("kafka:9092", "127.0.0.1:9"), names)
    yield names["app"]
    spanferry.disable()


async def test_the_program_traces_its_requests(app: Any) -> None:
    with capture() as captured:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            headers = {"X-Request-ID": "r-1", "X-Session-ID": "s-1", "X-User-ID": "u-1"}
            answer = await client.post("/chat", params={"question": "why"}, headers=headers)
            trace_id = captured.traces[0].trace_id
            words = {"trace_id": trace_id, "helpful": True}
            await client.post("/feedback", params=words)
    assert answer.json() == "42"
    trace = captured.traces[0]
    assert trace.complete
    assert [span.name for span in trace.spans] == ["POST /chat", "retrieve", "model"]
    assert trace.client_request_id == "r-1"
    assert trace.tags["tier"] == "gold"
    assert trace.metadata["mlflow.trace.session"] == "s-1"
    assert trace.span("retrieve").span_type == "RETRIEVER"
    assert [one.name for one in captured.assessments] == ["helpful"]


@pytest.mark.parametrize("line", re.findall(r"^spanferry (.*)$", README, flags=re.MULTILINE))
def test_the_commands_exist_with_their_options(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.split()
    command = words[:2] if words[0] in {"topics", "dlq", "sampling"} else words[:1]
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    told = capsys.readouterr().out
    assert all(word in told for word in words if word.startswith("--"))
