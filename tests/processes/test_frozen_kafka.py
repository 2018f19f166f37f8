"""Kafka freezes under real servers: each of their processes ends in time, has what is left in the spool,
and says so in one line."""

import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from tests.processes.account import arrived, numbered
from tests.processes.in_time import ends_in, in_time
from tests.processes.program import PROGRAMS, Program, program
from tests.processes.programs.children import CHILDREN, TRACES
from tests.processes.serving import ask, served
from tests.processes.tasks import queue_more_tasks, queue_tasks
from tests.processes.test_celery import WORKER
from tests.processes.test_ending import frozen
from tests.processes.test_servers import SERVERS
from tests.services.kafka import KafkaServer
from tests.spool.test_bad_days import replay

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

EXIT_S = 3.0
SAID = re.compile(
    r"(\d+) traces were not acknowledged by Kafka within \d\.\d s: they are in the spool"
)


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    """One of our own, because it is paused."""
    with KafkaServer() as server:
        yield server


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    """Asked for until the broker, which was paused before, is one of its cluster again."""
    deadline_s = time.monotonic() + 150
    while True:
        try:
            return kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 3)
        except (AttributeError, KafkaError):  # aiokafka asks a controller that it does not know yet
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    spool = {"SPANFERRY_SPOOL_DIR": str(tmp_path / "spool")}
    return environment | spool | {"SPANFERRY_EXIT_TIMEOUT_S": str(EXIT_S)}


def said_to_be_spooled(running: Program) -> list[int]:
    """By each process that says so."""
    assert "lost" not in running.output, running.output
    assert "Traceback" not in running.output, running.output
    return [int(match[1]) for match in map(SAID.search, running.output.splitlines()) if match]


def until_there(kafka: KafkaServer, topic: str, wanted: Counter[str]) -> None:
    deadline_s = time.monotonic() + 150
    while (found := arrived(kafka.bootstrap_servers, topic)) != wanted:
        assert time.monotonic() < deadline_s, wanted - found
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("server", "ending", "spool"),
    [
        ("gunicorn", signal.SIGTERM, True),
        ("gunicorn --preload", signal.SIGTERM, True),
        ("gunicorn with uvicorn's worker", signal.SIGTERM, True),
        ("gunicorn with uvicorn's worker", signal.SIGTERM, False),
        ("uvicorn --workers", signal.SIGTERM, True),
        ("uvicorn --workers", signal.SIGINT, False),
    ],
)
def test_servers_end_in_time(
    kafka: KafkaServer,
    topic: str,
    environment: dict[str, str],
    tmp_path: Path,
    server: str,
    ending: signal.Signals,
    spool: bool,
) -> None:
    """Without a spool what is left is lost, and said to be, once."""
    if not spool:
        del environment["SPANFERRY_SPOOL_DIR"]
    try:
        with served(SERVERS[server], environment) as (running, port):
            before = ask(port, "before", processes=2)
            until_there(kafka, topic, before.traces)
            kafka.pause()
            after = ask(port, "after", processes=2)
            running.interrupt() if ending is signal.SIGINT else running.signal(ending)
            running.ended()
    finally:
        kafka.resume()
    assert in_time(running.output, EXIT_S), running.output
    assert ends_in(running.output).keys() >= after.processes, running.output
    if not spool:
        lost = re.findall(r"(\d+) traces \(\d+ bytes\) were not acknowledged", running.output)
        assert len(lost) == len(after.processes), running.output
        # what came before is in Kafka, but the answer that says so may be held back
        unanswered = sum(map(int, lost)) - after.traces.total()
        assert 0 <= unanswered <= before.traces.total()
        return
    said = said_to_be_spooled(running)
    assert len(said) == len(after.processes), running.output
    assert sum(said) == after.traces.total()
    replay(kafka, topic, tmp_path / "spool")
    assert arrived(kafka.bootstrap_servers, topic) == before.traces + after.traces


def test_celerys_children_end_in_time(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path
) -> None:
    queue_tasks(tmp_path, 20)
    words = ["celery", "--app", f"{PROGRAMS}.tasks", *WORKER]
    try:
        with program(*words, environment=environment | {"TASKS_FOLDER": str(tmp_path)}) as worker:
            worker.wait_for("done ", 20)
            until_there(kafka, topic, numbered("task", 20))
            kafka.pause()
            queue_more_tasks(tmp_path, 40, first=20)
            worker.wait_for("done ", 60)
            assert worker.signal(signal.SIGTERM).ended() == 0, worker.output
    finally:
        kafka.resume()
    assert in_time(worker.output, EXIT_S), worker.output
    done = [line.split() for line in worker.output.splitlines() if line.startswith("done ")]
    connected = {pid for _, number, _, pid in done if int(number) < 20}
    left = Counter(pid for _, number, _, pid in done if int(number) >= 20 and pid in connected)
    # One that has begun under the frozen Kafka has put them away as they came.
    assert Counter(said_to_be_spooled(worker)) == Counter(left.values()), worker.output
    replay(kafka, topic, tmp_path / "spool")
    assert arrived(kafka.bootstrap_servers, topic) == numbered("task", 60)


@pytest.mark.parametrize("kind", ["fork", "pool"])
def test_multiprocessings_children_end_in_time(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """Those of Pool are there one after the other too: each has one task."""
    environment["SPANFERRY_EXIT_TIMEOUT_S"] = "2"
    with frozen() as servers:
        environment["SPANFERRY_BOOTSTRAP_SERVERS"] = servers
        with program(f"{PROGRAMS}.children", kind, environment=environment) as running:
            assert running.ended() == 0, running.output
    assert in_time(running.output, 2.0), running.output
    assert len(ends_in(running.output)) >= CHILDREN, running.output
    said = said_to_be_spooled(running)
    assert said == [TRACES] * CHILDREN, running.output
    replay(kafka, topic, tmp_path / "spool")
    expected: Counter[str] = Counter()
    for number in range(CHILDREN):
        expected += numbered(f"child{number}", TRACES)
    assert arrived(kafka.bootstrap_servers, topic) == expected
