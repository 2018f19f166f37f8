"""One pipeline for a test: a topic, a store, workers started at will, apps run to their end."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.services.kafka import KafkaServer
from tests.services.mlflow_tables import copy_tables
from tests.services.postgres import PostgresServer
from tests.services.worker import SpanferryWorker

APP_TIMEOUT_S = 120
# A killed worker's partitions move after the session's end; by default that is 45 s.
QUICK_SESSION = ("--set=kafka.session_timeout_s=6", "--set=kafka.heartbeat_s=1")


class Pipeline:
    """What one test runs: its own topic, group, store and experiment."""

    def __init__(
        self, kafka: KafkaServer, tracking_uri: str, stack: ExitStack, topic: str = ""
    ) -> None:
        self.kafka = kafka
        self.tracking_uri = tracking_uri
        self.experiment = f"e2e-{uuid.uuid4().hex[:8]}"
        self.topic = topic or kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 4)
        self.group = f"group-{uuid.uuid4().hex[:8]}"
        self._stack = stack
        self.workers: list[SpanferryWorker] = []

    def worker(self, *options: str, ready: bool = True) -> SpanferryWorker:
        """Start another worker of the group."""
        worker = SpanferryWorker(
            bootstrap_servers=self.kafka.bootstrap_servers,
            topic=self.topic,
            tracking_uri=self.tracking_uri,
            group=self.group,
            options=(*QUICK_SESSION, *options),
            warm=True,
        )
        self.workers.append(worker)
        self._stack.callback(worker.close)
        worker.start(ready=ready)
        return worker

    def start_app(self, first: int, count: int, rate: float = 0) -> subprocess.Popen[str]:
        """Start the app; end it with `finish`."""
        arguments = [self.kafka.bootstrap_servers, self.topic, self.experiment]
        numbers = [str(first), str(count), str(rate)]
        app = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.program", *arguments, *numbers],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(app.kill)
        return app

    def finish(self, app: subprocess.Popen[str]) -> dict[str, Any]:
        """The app's account, once it has ended by itself."""
        output, _ = app.communicate(timeout=APP_TIMEOUT_S)
        assert app.returncode == 0
        return json.loads(output.splitlines()[-1])

    def run_app(self, first: int, count: int, rate: float = 0) -> dict[str, Any]:
        """Run the app to its end: its account."""
        return self.finish(self.start_app(first, count, rate))


@pytest.fixture
def sqlite_uri(tmp_path: Path) -> str:
    return copy_tables(tmp_path / "mlflow.db", str(tmp_path / "artifacts"))


@pytest.fixture
def postgres_uri(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def pipelines(kafka: KafkaServer) -> Iterator[Callable[[str], Pipeline]]:
    with ExitStack() as stack:
        yield lambda tracking_uri: Pipeline(kafka, tracking_uri, stack)


@pytest.fixture
def pipeline(pipelines: Callable[[str], Pipeline], sqlite_uri: str) -> Pipeline:
    """The usual one, on SQLite."""
    return pipelines(sqlite_uri)


@pytest.fixture(scope="module")
def standing(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A topic, an SQLite store and a worker that runs for all tests of a file."""
    folder = tmp_path_factory.mktemp("standing")
    with ExitStack() as stack:
        uri = copy_tables(folder / "mlflow.db", str(folder / "artifacts"))
        one = Pipeline(kafka, uri, stack)
        one.worker("--set=assemble.idle_s=2")
        yield one


@pytest.fixture
def shared(standing: Pipeline) -> Iterator[Pipeline]:
    """That topic, store and worker, with an experiment of one's own."""
    with ExitStack() as stack:
        one = Pipeline(standing.kafka, standing.tracking_uri, stack, standing.topic)
        one.workers = standing.workers
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed test shows the end of its workers' logs."""
    report = yield
    given = getattr(item, "funcargs", {})
    pipeline = given.get("pipeline") or given.get("shared")
    if report.failed and isinstance(pipeline, Pipeline):
        for number, worker in enumerate(pipeline.workers):
            report.sections.append((f"log of worker {number}", worker.log_tail()))
    return report
