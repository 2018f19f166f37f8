"""All runs of the programs, once for all tests that look at them."""

import subprocess
import uuid

import pytest

from tests.conftest import environment_restored
from tests.end_to_end.conftest import QUICK_SESSION
from tests.mlflow_api.runs import Place, Run, run_all
from tests.services.kafka import KafkaServer
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer
from tests.services.worker import SpanferryWorker

# What can never be whole, or never finds its trace, is not waited for long.
IMPATIENT = ("--set=assemble.idle_s=3", "--set=assemble.age_s=20", "--set=write.absent_s=6")


@pytest.fixture(scope="session")
def runs(kafka: KafkaServer, postgres: PostgresServer) -> dict[tuple[str, str], Run]:
    """By version and mode."""
    name = f"mlflow-api-{uuid.uuid4().hex[:8]}"
    topic = kafka.create_topic(name, 4)
    # Several processes write at the same time, for which SQLite is not made.
    with environment_restored(), MlflowServer(postgres.new_database()) as server:
        place = Place(server.uri, server.backend_uri, kafka.bootstrap_servers, topic)
        with SpanferryWorker(
            bootstrap_servers=place.bootstrap_servers,
            topic=place.topic,
            tracking_uri=place.tracking_uri,
            group=name,
            options=(*QUICK_SESSION, *IMPATIENT),
        ) as worker:
            try:
                return run_all(place, worker)
            except (AssertionError, subprocess.SubprocessError) as error:
                # Once for every test: without the traceback, which takes a second to show.
                pytest.fail(f"{error}\n{worker.log_tail()}", pytrace=False)
