"""All runs of the programs, once for all tests that look at them."""

import subprocess
import uuid
from contextlib import ExitStack

import pytest

from tests.conftest import environment_restored
from tests.end_to_end.conftest import QUICK_SESSION
from tests.mlflow_api.databases import make_databases
from tests.mlflow_api.runs import AllRuns, Place, Run, run_all
from tests.services.kafka import KafkaServer
from tests.services.mariadb import MariaDbServer
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer
from tests.services.process import ServiceError
from tests.services.worker import SpanferryWorker

# What can never be whole, or never finds its trace, is not waited for long.
IMPATIENT = ("--set=assemble.idle_s=3", "--set=assemble.age_s=20", "--set=write.absent_s=6")
OPTIONS = (*QUICK_SESSION, *IMPATIENT)


@pytest.fixture(scope="session")
def all_runs(
    kafka: KafkaServer,
    postgres: PostgresServer,
    mariadb: MariaDbServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AllRuns:
    """As they are read from the server and from the databases."""
    name = f"mlflow-api-{uuid.uuid4().hex[:8]}"
    topic = kafka.create_topic(name, 4)
    # Several processes write at the same time, for which SQLite is not made.
    folder = tmp_path_factory.mktemp("mlflow_api")
    with ExitStack() as stack:
        stack.enter_context(environment_restored())
        served, databases = make_databases(postgres, mariadb, folder)
        server = stack.enter_context(MlflowServer(served))
        place = Place(server.uri, served, kafka.bootstrap_servers, topic, databases, OPTIONS)
        worker = stack.enter_context(
            SpanferryWorker(
                bootstrap_servers=place.bootstrap_servers,
                topic=place.topic,
                tracking_uri=place.tracking_uri,
                group=name,
                options=place.options,
                warm=True,
            )
        )
        try:
            return run_all(place, worker)
        except (AssertionError, ServiceError, subprocess.SubprocessError) as error:
            # Once for every test: without the traceback, which takes a second to show.
            pytest.fail(f"{error}\n{worker.log_tail()}", pytrace=False)


@pytest.fixture(scope="session")
def runs(all_runs: AllRuns) -> dict[tuple[str, str], Run]:
    """By version and mode, as the server shows them."""
    return all_runs.server
