"""A topic for each test, and the environment that leads an app to it."""

import uuid

import pytest

from tests.services.kafka import KafkaServer


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    return kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 3)


@pytest.fixture
def environment(kafka: KafkaServer, topic: str) -> dict[str, str]:
    """With which `enable()` needs no arguments."""
    return {
        "SPANFERRY_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SPANFERRY_TOPIC": topic,
        "SPANFERRY_MLFLOW": "false",
        "SPANFERRY_COLLECT_ENVIRONMENT": "false",
        "SPANFERRY_EXIT_TIMEOUT_S": "10",
    }
