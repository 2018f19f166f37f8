"""What all tests share: real services, event loops, blocking-call alarms, bounded randomness."""

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping

import pytest
import uvloop
from blockbuster import blockbuster_ctx
from hypothesis import settings

from spanferry import active_model
from tests.services import mariadb_programs
from tests.services.kafka import KafkaServer, share_classes
from tests.services.mariadb import MariaDbServer
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer
from tests.services.process import ServiceError
from tests.services.worker import SpanferryWorker

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

SERVICES = (KafkaServer, MariaDbServer, MlflowServer, PostgresServer, SpanferryWorker)
OURS = ("SPANFERRY_", "MLFLOW_", "ENABLE_MLFLOW_TRACING")
OF_THE_RUN = {"SPANFERRY_TEST_KAFKA", "SPANFERRY_BUDGET_MS", "MLFLOW_DISABLE_TELEMETRY"}
OUR_PACKAGES = ["spanferry", "spanferry_schemas", "spanferry_start", "spanferry_worker"]

# The same examples in every run, so that a red run is red again; HYPOTHESIS_PROFILE=explore looks
# for new ones.
settings.register_profile("repeatable", derandomize=True, max_examples=100, deadline=None)
settings.register_profile("explore", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    """Tests see no settings of the developer's shell, and MLflow reports its use to nobody.

    The budget guard does nothing where no test asks for it: on a busy machine it would shorten, and
    rightly, what tests compare.
    """
    for name in settings_in_the_environment():
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["SPANFERRY_BUDGET_MS"] = "0"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Download Kafka and MariaDB here, where no test's time limit counts. What fails is said by the
    fixture."""
    if any("kafka" in getattr(item, "fixturenames", ()) for item in session.items):
        with contextlib.suppress(ServiceError):
            share_classes()
    if any("mariadb" in item.name or "MariaDb" in item.name for item in session.items):
        with contextlib.suppress(ServiceError):
            mariadb_programs.programs()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Async tests run on asyncio; those marked `both_loops` on uvloop as well."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if item.get_closest_marker("both_loops"):
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of the logs of the services that it used."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, SERVICES):
                report.sections.append((f"log of {name}", value.log_tail()))
    return report


def settings_in_the_environment() -> list[str]:
    """Variables that the app side, the worker or MLflow would read."""
    return [name for name in os.environ if name.startswith(OURS) and name not in OF_THE_RUN]


@contextlib.contextmanager
def environment_restored() -> Iterator[None]:
    before, experiment_id = dict(os.environ), _mlflows_experiment()
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    if _mlflows_experiment() != experiment_id:
        sys.modules["mlflow.tracking.fluent"]._active_experiment_id = experiment_id  # type: ignore[attr-defined]


def _mlflows_experiment() -> str | None:
    """What `mlflow.set_experiment` sets beside the variable, and what goes before it."""
    return getattr(sys.modules.get("mlflow.tracking.fluent"), "_active_experiment_id", None)


@pytest.fixture(autouse=True, scope="module")
def environment_of_the_module() -> Iterator[None]:
    """What a module's fixtures set ends with it; what a session's set would reach every test."""
    assert not settings_in_the_environment(), "set by a fixture of the session"
    with environment_restored():
        yield


@pytest.fixture(autouse=True)
def environment_of_the_test(environment_of_the_module: None) -> Iterator[None]:
    """What a test sets ends with it: `mlflow.set_tracking_uri` sets a variable that we read."""
    with environment_restored():
        yield


@pytest.fixture(autouse=True)
def active_model_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test starts without an active model, and one that it sets ends with it."""
    monkeypatch.setattr(active_model, "_anywhere", None)
    monkeypatch.setattr(
        active_model, "_here", contextvars.ContextVar("active_model_of_test", default=None)
    )


@pytest.fixture(autouse=True)
def logging_of_the_test() -> Iterator[None]:
    """How a test sets up logging ends with it: a command that runs in this process does so."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call from our code inside an event loop fails the async test that made it."""
    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    with blockbuster_ctx(OUR_PACKAGES) as alarm:
        # /proc is memory: a metrics page may ask it how much of that the process has.
        for call in ("io.BufferedReader.read", "os.listdir"):
            alarm.functions[call].can_block_in("process_collector.py", "collect")
        yield


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """A real Apache Kafka; use topics and groups of your own, leave it running."""
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL; take a database of your own with new_database()."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    """A real MariaDB; take a database of your own with new_database()."""
    with MariaDbServer() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[MlflowServer]:
    """A real `mlflow server` on SQLite; use experiments of your own."""
    with MlflowServer() as server:
        yield server
