"""A real celery worker with forked children, which end by os._exit."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.program import PROGRAMS, program
from tests.processes.tasks import queue_tasks
from tests.services.kafka import KafkaServer

pytestmark = pytest.mark.kafka

TASKS = 40
WORKER = ["worker", "--concurrency", "2", "--without-gossip", "--without-mingle"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The broker's, with the tasks in it."""
    queue_tasks(tmp_path, TASKS)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ([], {}),
        ([], {"TRACE_FIRST": "true"}),
        (["--max-tasks-per-child", "15"], {"ENABLE_IN_CHILD": "true"}),
    ],
    ids=[
        "enabled before the fork",
        "traced before the fork",
        "enabled in the child, children taken away",
    ],
)
def test_sigterm_right_after_the_last_task(
    kafka: KafkaServer,
    topic: str,
    environment: dict[str, str],
    folder: Path,
    options: list[str],
    more: dict[str, str],
) -> None:
    told = environment | more | {"TASKS_FOLDER": str(folder)}
    words = ["celery", "--app", f"{PROGRAMS}.tasks", *WORKER, *options]
    with program(*words, environment=told) as worker:
        worker.wait_for("done ", TASKS)
        assert worker.signal(signal.SIGTERM).ended() == 0, worker.output
    processes = {line.split()[-1] for line in worker.output.splitlines() if "done " in line}
    assert str(worker.pid) not in processes
    first = Counter(["first-0"] if "TRACE_FIRST" in more else [])
    assert arrived(kafka.bootstrap_servers, topic) == numbered("task", TASKS) + first
