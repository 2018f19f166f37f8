"""Two ways for the same program: MLflow as it comes, and MLflow with spanferry enabled."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.better_than_native.account import Stored, stored, wait_until
from tests.services.kafka import KafkaServer
from tests.services.mlflow_tables import copy_tables
from tests.services.warm import WarmProgram, start
from tests.services.worker import SpanferryWorker

PROGRAM_TIMEOUT_S = 150
SETTINGS = ("--set=kafka.session_timeout_s=6", "--set=kafka.heartbeat_s=1")


class Way:
    """One way from a program into a store of its own."""

    def __init__(self, name: str, database: Path, **options: Any) -> None:
        self.name = name
        self.database = database
        self.tracking_uri = f"sqlite:///{database}"
        self.options = options

    def new_experiment(self) -> str:
        return f"{self.name}-{uuid.uuid4().hex[:8]}"

    def start(self, program: str, experiment: str, **options: Any) -> WarmProgram:
        """Start a program of this folder; the caller ends it."""
        arguments = {"tracking_uri": self.tracking_uri, "experiment": experiment}
        arguments |= self.options | options
        return start(f"tests.better_than_native.programs.{program}", json.dumps(arguments))

    def run(self, program: str, experiment: str, **options: Any) -> "Outcome":
        """Run a program to its end: what it printed."""
        process = self.start(program, experiment, **options)
        try:
            output, errors = process.communicate(timeout=PROGRAM_TIMEOUT_S)
        finally:
            process.kill()
        assert process.returncode == 0, errors
        return Outcome(json.loads(output.splitlines()[-1]), errors)

    def stored(self, experiment: str) -> list[Stored]:
        return stored(self.database, experiment)

    def wait_for(
        self, experiment: str, count: int, *, spans: int = 1, seconds: float = 60.0
    ) -> list[Stored]:
        """What is stored once so many traces have so many spans, or the time is over.

        A trace's row comes a moment before its spans.
        """
        wait_until(
            lambda: sum(one.spans >= spans for one in self.stored(experiment)) >= count, seconds
        )
        return self.stored(experiment)


class Outcome:
    """What a program answered and what it said."""

    def __init__(self, account: dict[str, Any], errors: str) -> None:
        self.account = account
        self.errors = errors

    def __getitem__(self, key: str) -> Any:
        return self.account[key]


class Line(Way):
    """Through spanferry: a topic and a worker that writes into the store."""

    def __init__(self, kafka: KafkaServer, database: Path) -> None:
        self.kafka = kafka
        self.topic = kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 4)
        self.group = f"group-{uuid.uuid4().hex[:8]}"
        super().__init__(
            "spanferry", database, bootstrap_servers=kafka.bootstrap_servers, topic=self.topic
        )
        self.worker = SpanferryWorker(
            bootstrap_servers=kafka.bootstrap_servers,
            topic=self.topic,
            tracking_uri=self.tracking_uri,
            group=self.group,
            options=SETTINGS,
            warm=True,
        )


@pytest.fixture(scope="package")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    def make() -> Path:
        path = tmp_path_factory.mktemp("store") / "mlflow.db"
        copy_tables(path, str(path.parent / "artifacts"))
        return path

    return make


@pytest.fixture
def native(new_store: Callable[[], Path]) -> Way:
    """MLflow alone, in its default configuration, into a store that nobody else uses."""
    return Way("native", new_store())


@pytest.fixture(scope="package")
def line(kafka: KafkaServer, new_store: Callable[[], Path]) -> Iterator[Line]:
    """One pipeline for all tests of this folder; take an experiment of your own."""
    one = Line(kafka, new_store())
    with one.worker:
        yield one


@pytest.fixture
def own_line(kafka: KafkaServer, new_store: Callable[[], Path]) -> Iterator[Line]:
    """A pipeline whose worker nobody else keeps busy."""
    one = Line(kafka, new_store())
    with one.worker:
        yield one


@pytest.fixture
def note(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Say a figure in the run's output, also where the test passes."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return say


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed test shows the end of its worker's log."""
    report = yield
    for name in ("line", "own_line"):
        one = getattr(item, "funcargs", {}).get(name)
        if report.failed and isinstance(one, Line):
            report.sections.append((f"log of {name}'s worker", one.worker.log_tail()))
    return report
