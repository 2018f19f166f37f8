"""The example service and its operator: every recipe of docs/searching.md finds what it says."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from tests.end_to_end.conftest import Pipeline
from tests.services.process import GuardedProcess, free_port, wait_until_ready

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "searching.md").read_text()
REFUNDS = "When are refunds paid back?"
OVERLOADED = "Question 5"
"""One of the questions that the example's model has no capacity for; held by a test below."""


class Deployment:
    """The example service under uvicorn, from a Git working tree of its own."""

    def __init__(self, tree: Path, pipeline: Pipeline, environment: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = [f"--port={port}", "--host=127.0.0.1", f"--app-dir={tree}", "--workers=1"]
        self.process = GuardedProcess(
            [sys.executable, "-m", "uvicorn", "chat_service:app", *options],
            log=tree / "app.log",  # beside the code, so that Git is asked about this tree
            env={
                "SPANFERRY_BOOTSTRAP_SERVERS": pipeline.kafka.bootstrap_servers,
                "SPANFERRY_TOPIC": pipeline.topic,
                **environment,
            },
        )
        self.process.start()
        wait_until_ready(self.process, self._answers, name="the example", timeout_s=60)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/stats", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def chat(self, request: str, session: str, user: str, message: str = REFUNDS) -> int:
        headers = {"X-Request-ID": request, "X-Session-ID": session, "X-User-ID": user}
        body = {"message": message, "history": []}
        answer = httpx.post(f"{self.url}/chat", json=body, headers=headers, trust_env=False)
        return answer.status_code

    def rate(self, request: str, user: str, is_correct: bool, comment: str | None = None) -> None:
        httpx.post(
            f"{self.url}/chat_feedback",
            params={"client_request_id": request},
            json={"is_correct": is_correct, "comment": comment},
            headers={"X-User-ID": user},
            trust_env=False,
        ).raise_for_status()


def git(tree: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=tree, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def working_tree(folder: Path) -> str:
    """The example under Git, on the branch `main`: its commit."""
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "chat_service.py", folder)
    git(folder, "init", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "the example")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def deployed(pipeline: Pipeline, tmp_path: Path) -> Iterator[str]:
    """The requests of the page have been served, rated and stored: the commit that served them."""
    commit = working_tree(tmp_path / "released")
    shutil.copytree(tmp_path / "released", tmp_path / "canary")
    changed = tmp_path / "canary" / "chat_service.py"
    changed.write_text(changed.read_text().replace('VERSION = "2.4.0"', 'VERSION = "2.5.0"'))
    with ExitStack() as stack:
        pipeline.worker()
        released = Deployment(
            tmp_path / "released", pipeline, {"APP_ENVIRONMENT": "production", "REGION": "eu-west"}
        )
        stack.callback(released.process.stop)
        canary = Deployment(tmp_path / "canary", pipeline, {"DEPLOYMENT_ID": "canary-7"})
        stack.callback(canary.process.stop)
        serve(released, canary)
        stack.close()
        wait_for(pipeline.tracking_uri, traces=5, ratings=3)
        yield commit


def serve(released: Deployment, canary: Deployment) -> None:
    """Three users, five requests, one of which fails, three ratings."""
    assert released.chat("req-1", "session-1", "alice") == 200
    released.rate("req-1", "alice", True)
    assert released.chat("req-2", "session-1", "alice") == 200
    released.rate("req-2", "alice", False, "not what I asked")
    assert released.chat("req-3", "session-2", "bob", OVERLOADED) == 503
    assert released.chat("req-4", "session-3", "bob", "How do I reset my password?") == 200
    assert canary.chat("req-5", "session-4", "carol") == 200
    canary.rate("req-5", "carol", True)


def wait_for(tracking_uri: str, *, traces: int, ratings: int) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    deadline = time.monotonic() + 150
    while True:
        experiment = mlflow.get_experiment_by_name("chat-service")
        ids = [experiment.experiment_id] if experiment else []
        found: list[Any] = mlflow.search_traces(locations=ids, return_type="list") if ids else []
        rated = sum(len(trace.info.assessments) for trace in found)
        if (len(found), rated) == (traces, ratings):
            return
        assert time.monotonic() < deadline, (len(found), rated)
        time.sleep(0.5)


def recipes(tracking_uri: str, commit: str) -> Iterator[tuple[str, str]]:
    """Heading and program of every recipe, for what is deployed here."""
    heading = ""
    parts = re.compile(r"^## ([^\n]*)$|```python\n(.*?)```", re.MULTILINE | re.DOTALL)
    for title, program in parts.findall(PAGE):
        heading = title or heading
        if program:
            here = program.replace("http://mlflow:5000", tracking_uri)
            yield heading, here.replace("1f2e3d4c", commit[:8])


WANTED: dict[str, list[set[int]]] = {
    "One request, by the id that the client knows": [{2}],
    "A user's requests": [{1, 2}],
    "A conversation, in its order": [{1, 2}],
    "A version of the app": [{1, 2, 3, 4}, {5}, {1, 2, 3, 4}, {1, 2, 3, 4, 5}],
    "An environment, a deployment, a region": [{1, 2, 3, 4}, {5}],
    "What went wrong, and how often": [{3}],
    "What users said": [{2}],
    "All at once": [{2}],
}
"""The requests that each recipe with `traces` finds, in the page's order."""


def numbers(traces: list[Any]) -> list[int]:
    return [int(trace.info.client_request_id.removeprefix("req-")) for trace in traces]


def test_every_recipe_finds_what_it_says(
    deployed: str, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_ENABLE_SCORER_TRACING", "false")
    names: dict[str, Any] = {}
    found: dict[str, list[set[int]]] = {}
    for heading, program in recipes(pipeline.tracking_uri, deployed):
        names.pop("traces", None)
        exec(program, names)
        if "traces" in names:
            found.setdefault(heading, []).append(set(numbers(names["traces"])))
            if heading.startswith("A conversation"):
                assert numbers(names["traces"]) == [1, 2]
            if heading == "What users said":
                (said,) = names["traces"][0].info.assessments
                assert (said.rationale, said.source.source_id) == ("not what I asked", "alice")
    assert found == WANTED
    assert names["error_rate"].to_dict() == {"2.4.0": 0.25, "2.5.0": 0.0}
    assert names["content"] == {"2.4.0": 0.5, "2.5.0": 1.0}
    assert_versions(deployed)
    assert names["result"].metrics["cites_sources/mean"] == 1.0


def assert_versions(commit: str) -> None:
    """Each version is one LoggedModel, with the parameters that the app gave."""
    models = mlflow.search_logged_models(output_format="list")
    plain = f"git-main-{commit[:8]}"
    assert sorted(re.sub("-dirty-[0-9a-f]{8}$", "-dirty", model.name) for model in models) == [
        plain,
        f"{plain}-dirty",
    ]
    assert all(model.params == {"model": "parrot-1", "temperature": "0.2"} for model in models)


def test_the_question_is_one_that_fails() -> None:
    from hashlib import blake2b

    assert blake2b(OVERLOADED.encode(), digest_size=1).digest()[0] % 20 == 0
