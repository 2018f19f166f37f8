"""gevent: greenlets as threads, under gunicorn and alone; the sender stays a thread of its own."""

import signal
from collections import Counter

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.program import PROGRAMS, program
from tests.processes.serving import ask, served
from tests.producer.topic import read_fragments
from tests.services.kafka import KafkaServer

pytestmark = pytest.mark.kafka

GREENLETS = 100
GUNICORN = ["gunicorn", "--bind", "fd://FD", "--workers", "2", "--worker-class", "gevent"]
GUNICORN += ["--no-control-socket", "--log-level", "warning"]
APP = f"{PROGRAMS}.wsgi:app"


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["plain", "preload"])
def test_gunicorn_with_gevent(
    kafka: KafkaServer, topic: str, environment: dict[str, str], options: list[str]
) -> None:
    environment["SPANFERRY_COLLECT_ENVIRONMENT"] = "true"
    with served([*GUNICORN, *options, APP], environment) as (running, port):
        answers = ask(port, "request", processes=2)
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    assert arrived(kafka.bootstrap_servers, topic) == answers.traces


@pytest.mark.parametrize("ending", ["exit", "wait"])
def test_a_program_of_greenlets(
    kafka: KafkaServer, topic: str, environment: dict[str, str], ending: str
) -> None:
    """It ends by itself, or by a SIGTERM that it does not handle."""
    with program(f"{PROGRAMS}.greenlets", ending, environment=environment) as running:
        running.wait_for("traced")
        if ending == "wait":
            running.signal(signal.SIGTERM)
        assert running.ended() == (0 if ending == "exit" else -signal.SIGTERM), running.output
    found = arrived(kafka.bootstrap_servers, topic)
    others = found.pop("inside")
    assert found == numbered("green", GREENLETS)
    assert others == GREENLETS, "a thread has no context, so its span is a trace of its own"
    spans: Counter[bytes] = Counter()
    for one in read_fragments(kafka.bootstrap_servers, topic):
        spans[one.trace_id] += len(one.spans)
    assert Counter(spans.values()) == {2: GREENLETS, 1: GREENLETS}
