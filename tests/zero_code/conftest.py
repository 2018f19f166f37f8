"""A topic for each test, variables that lead to it, and the command."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.kafka import KafkaServer

RUN = ["spanferry_worker", "run"]
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 100
NOWHERE = {"SPANFERRY_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SPANFERRY_EXIT_TIMEOUT_S": "1"}

Runs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    return kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 3)


@pytest.fixture
def environment(kafka: KafkaServer, topic: str, tmp_path: Path) -> dict[str, str]:
    """All that an app is told. What went to MLflow itself would be found in a folder of the test."""
    return {
        "SPANFERRY_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SPANFERRY_TOPIC": topic,
        "SPANFERRY_COLLECT_ENVIRONMENT": "false",
        "SPANFERRY_EXIT_TIMEOUT_S": "10",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture
def spanferry_run(tmp_path: Path) -> Runs:
    """`spanferry run <words>` until it ends, in an empty folder; Kafka is not there by default."""

    def runs(*words: str, says: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *RUN, *words],
            input=says,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=TIMEOUT_S,
            env=os.environ | NOWHERE | environment,
        )

    return runs
