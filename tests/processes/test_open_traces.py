"""Traces of MLflow's API that are open when their process ends: what of them has ended arrives."""

import signal

import pytest

from spanferry_schemas import Fragment
from tests.processes.program import PROGRAMS, program
from tests.producer.topic import read_fragments
from tests.services.kafka import KafkaServer

pytestmark = pytest.mark.kafka

APP = f"{PROGRAMS}.open_trace"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"SPANFERRY_MLFLOW": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


def names(fragments: list[Fragment]) -> list[list[str]]:
    """Of the spans of each."""
    return [[span.name for span in one.spans] for one in fragments]


@pytest.mark.parametrize("ending", ["exit", "sigterm"])
def test_what_has_ended_arrives_however_the_process_ends(
    kafka: KafkaServer, topic: str, environment: dict[str, str], ending: str
) -> None:
    words = [APP, "wait" if ending == "sigterm" else "exit"]
    with program(*words, environment=environment) as running:
        running.wait_for("traced")
        if ending == "sigterm":
            running.wait_until_it_reads()
            running.signal(signal.SIGTERM)
        code = running.ended()
    assert code == (-signal.SIGTERM if ending == "sigterm" else 0), running.output
    found = read_fragments(kafka.bootstrap_servers, topic)
    assert names(found) == [["step"]], running.output
    assert found[0].end is None


def test_a_trace_goes_on_after_a_servers_shutdown(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """No span is lost or sent twice, and the trace has its end."""
    with program(APP, "uvicorn", environment=environment) as running:
        assert running.ended() == 0, running.output
    assert "served 1" in running.output, "the shutdown has not sent what had ended"
    found = read_fragments(kafka.bootstrap_servers, topic)
    assert names(found) == [["step"], ["later", "root"]]
    assert len({one.trace_id for one in found}) == 1
    assert [one.end.spans for one in found if one.end is not None] == [3]
