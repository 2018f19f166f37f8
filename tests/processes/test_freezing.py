"""Frozen and thawed, as serverless platforms do it: connections and requests die meanwhile."""

import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.program import PROGRAMS, program
from tests.services.kafka import KafkaServer
from tests.services.process import GuardedProcess

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

IDLE_S = 1.0
FROZEN_S = 3.0
"""The broker has closed every connection by then."""

TIMED_OUT_S = 16.5
"""Requests of the sender's time out after 15 s."""


class ImpatientKafka(KafkaServer):
    """Closes connections that idle for a second."""

    def _prepare(self, folder: Path) -> GuardedProcess:
        process = super()._prepare(folder)
        with (folder / "server.properties").open("a") as properties:
            properties.write(f"connections.max.idle.ms={IDLE_S * 1000:.0f}\n")
        return process


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    """One of our own, because it is impatient and paused."""
    with ImpatientKafka() as server:
        yield server


def test_each_invocation_flushes_and_is_frozen_behind_it(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    with program(f"{PROGRAMS}.invoked", "flush", environment=environment) as running:
        for number in range(3):
            running.tell(f"trace-{number}")
            assert running.wait_for("answered", number + 1) == "answered True", running.output
            running.signal(signal.SIGSTOP)
            assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", number + 1)
            time.sleep(FROZEN_S)
            running.signal(signal.SIGCONT)
        assert running.signal(signal.SIGTERM).ended() == -signal.SIGTERM
    assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", 3)


def test_frozen_without_a_flush_for_longer_than_requests_live(
    kafka: KafkaServer, environment: dict[str, str]
) -> None:
    """What was on its way, what waited, and what comes afterwards: all of it, once.

    Several programs at once, one of them in the middle of a request.
    """
    topics = [kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 3) for _ in range(2)]
    told = [environment | {"SPANFERRY_TOPIC": topic} for topic in topics]
    words = (f"{PROGRAMS}.invoked", "no-flush")
    with program(*words, environment=told[0]) as idle, program(*words, environment=told[1]) as busy:
        for one in (idle, busy):
            one.tell("trace-0")
            one.wait_for("answered")
            while not arrived(kafka.bootstrap_servers, topics[(idle, busy).index(one)]):
                time.sleep(0.1)
        kafka.pause()
        try:
            busy.tell("trace-1")
            busy.wait_for("answered", 2)
            time.sleep(0.5)  # it asks, and nobody answers
            busy.signal(signal.SIGSTOP)
            idle.tell("trace-1")
            idle.wait_for("answered", 2)
            idle.signal(signal.SIGSTOP)
        finally:
            kafka.resume()
        time.sleep(TIMED_OUT_S)
        for one in (idle, busy):
            one.signal(signal.SIGCONT)
            one.tell("trace-2")
            one.wait_for("answered", 3)
            assert one.signal(signal.SIGTERM).ended() == -signal.SIGTERM, one.output
    for topic in topics:
        assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", 3)
