"""Real servers: every request that was answered is a trace at the topic, once, whatever ends them."""

import os
import signal
from collections import Counter

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.program import PROGRAMS
from tests.processes.serving import ask, served
from tests.services.kafka import KafkaServer

pytestmark = pytest.mark.kafka

REQUESTS = 60
GUNICORN = ["gunicorn", "--bind", "fd://FD", "--workers", "2", "--log-level", "warning"]
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


def names() -> list[str]:
    return list(numbered("request", REQUESTS))


@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_right_after_the_last_answer(
    kafka: KafkaServer, topic: str, environment: dict[str, str], server: str
) -> None:
    with served(SERVERS[server], environment) as (running, port):
        processes = ask(port, names())
        assert running.signal(signal.SIGTERM).ended() in {0, -signal.SIGTERM}, running.output
    assert len(processes) >= 2
    assert running.pid not in processes
    assert arrived(kafka.bootstrap_servers, topic) == numbered("request", REQUESTS)


@pytest.mark.parametrize("server", ["gunicorn --preload", "uvicorn --workers"])
def test_ctrl_c_right_after_the_last_answer(
    kafka: KafkaServer, topic: str, environment: dict[str, str], server: str
) -> None:
    with served(SERVERS[server], environment) as (running, port):
        ask(port, names())
        running.interrupt().ended()
    assert arrived(kafka.bootstrap_servers, topic) == numbered("request", REQUESTS)


def test_an_app_that_has_traced_before_gunicorn_forks(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """What the parent has traced is sent by the parent, once."""
    traced = environment | {"TRACE_FIRST": "true"}
    with served(SERVERS["gunicorn --preload"], traced) as (running, port):
        ask(port, names())
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    found = arrived(kafka.bootstrap_servers, topic)
    assert found == numbered("request", REQUESTS) + Counter(["first-0"])


def test_gunicorn_takes_its_workers_away_and_makes_new_ones(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """SIGHUP: each of the first workers ends after what it serves."""
    with served(SERVERS["gunicorn"], environment) as (running, port):
        first = ask(port, names())
        running.signal(signal.SIGHUP)
        waited = [f"later-{number}" for number in range(REQUESTS)]
        later = ask(port, waited)
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    assert later - first
    found = arrived(kafka.bootstrap_servers, topic)
    assert found == numbered("request", REQUESTS) + numbered("later", REQUESTS)


def test_a_worker_that_is_killed_costs_what_it_had_just_traced(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """gunicorn makes a new one; what came before the sender's last look is there."""
    with served(SERVERS["gunicorn"], environment) as (running, port):
        for process in ask(port, names()):
            os.kill(process, signal.SIGKILL)
        ask(port, list(numbered("later", REQUESTS)))
        assert running.signal(signal.SIGTERM).ended() == 0, running.output
    found = arrived(kafka.bootstrap_servers, topic)
    assert found - numbered("request", REQUESTS) == numbered("later", REQUESTS)
