"""Real servers: every request that was answered is a trace at the topic, once, whatever ends them."""

import os
import signal
from collections import Counter

import pytest

from tests.processes.account import arrived
from tests.processes.program import PROGRAMS
from tests.processes.serving import ask, served
from tests.services.kafka import KafkaServer

pytestmark = pytest.mark.kafka

GUNICORN = ["gunicorn", "--bind", "fd://FD", "--workers", "2", "--log-level", "warning"]
GUNICORN += ["--no-control-socket"]
UVICORN = ["uvicorn", "--fd", "FD", "--workers", "2", "--log-level", "warning"]
WSGI = f"{PROGRAMS}.wsgi:app"
ASGI = f"{PROGRAMS}.asgi:app"
ASGI_WORKER = ["--worker-class", "uvicorn_worker.UvicornWorker"]

SERVERS = {
    "gunicorn": [*GUNICORN, WSGI],
    "gunicorn --preload": [*GUNICORN, "--preload", WSGI],
    "gunicorn --threads": [*GUNICORN, "--threads", "4", WSGI],
    "gunicorn --max-requests": [*GUNICORN, "--max-requests", "10", WSGI],
    "gunicorn with uvicorn's worker": [*GUNICORN, *ASGI_WORKER, ASGI],
    "gunicorn --preload with uvicorn's worker": [*GUNICORN, "--preload", *ASGI_WORKER, ASGI],
    "uvicorn --workers": [*UVICORN, ASGI],
}


@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_right_after_the_last_answer(
    kafka: KafkaServer, topic: str, environment: dict[str, str], server: str
) -> None:
    with served(SERVERS[server], environment) as (running, port):
        answers = ask(port, "request", processes=2)
        assert running.signal(signal.SIGTERM).ended() in {0, -signal.SIGTERM}, running.output
    assert running.pid not in answers.processes
    assert arrived(kafka.bootstrap_servers, topic) == answers.traces


@pytest.mark.parametrize("server", ["gunicorn --preload", "uvicorn --workers"])
def test_ctrl_c_right_after_the_last_answer(
    kafka: KafkaServer, topic: str, environment: dict[str, str], server: str
) -> None:
    with served(SERVERS[server], environment) as (running, port):
        answers = ask(port, "request", processes=2)
        running.interrupt().ended()
    assert arrived(kafka.bootstrap_servers, topic) == answers.traces


def test_an_app_that_has_traced_before_gunicorn_forks(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """What the parent has traced is sent by the parent, once."""
    traced = environment | {"TRACE_FIRST": "true"}
    with served(SERVERS["gunicorn --preload"], traced) as (running, port):
        answers = ask(port, "request", processes=2)
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    assert arrived(kafka.bootstrap_servers, topic) == answers.traces + Counter(["first-0"])


def test_gunicorn_takes_its_workers_away_and_makes_new_ones(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """SIGHUP: each of the first workers ends after what it serves."""
    with served(SERVERS["gunicorn"], environment) as (running, port):
        first = ask(port, "first")
        running.signal(signal.SIGHUP)
        later = ask(port, "later", processes=3)
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    assert later.processes - first.processes
    assert arrived(kafka.bootstrap_servers, topic) == first.traces + later.traces


def test_workers_that_are_killed_cost_what_they_had_just_traced(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """gunicorn makes new ones."""
    with served(SERVERS["gunicorn --preload"], environment) as (running, port):
        first = ask(port, "first", processes=2)
        for process in first.processes:
            os.kill(process, signal.SIGKILL)
        later = ask(port, "later", processes=2)
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    found = arrived(kafka.bootstrap_servers, topic)
    assert found - first.traces == later.traces
    assert found <= first.traces + later.traces
