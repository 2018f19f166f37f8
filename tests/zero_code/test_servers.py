"""`spanferry run -- <server>`: each request of an app that does not enable anything is a trace."""

import signal
import stat
import sys
from pathlib import Path

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.program import program
from tests.processes.serving import ask, served
from tests.processes.tasks import queue_tasks
from tests.services.kafka import KafkaServer
from tests.zero_code.conftest import ROOT, RUN

pytestmark = pytest.mark.kafka

ASGI = "tests.zero_code.apps.asgi:app"
UVICORN = ["uvicorn", "--fd", "FD", "--log-level", "warning"]
GUNICORN = ["gunicorn", "--bind", "fd://FD", "--workers", "2", "--log-level", "warning"]
GUNICORN += ["--no-control-socket", "--worker-class", "uvicorn_worker.UvicornWorker"]
TASKS = 20

SERVERS = {
    "uvicorn": ([*UVICORN, ASGI], "mlflow", 1),
    "uvicorn --workers 2": ([*UVICORN, "--workers", "2", ASGI], "spanferry", 2),
    "uvicorn --reload": ([*UVICORN, "--reload", "--reload-dir", "deploy", ASGI], "spanferry", 1),
    "gunicorn with uvicorn's worker": ([*GUNICORN, ASGI], "spanferry", 2),
    "gunicorn --preload": ([*GUNICORN, "--preload", ASGI], "mlflow", 2),
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_request_is_a_trace(
    kafka: KafkaServer, topic: str, environment: dict[str, str], server: str
) -> None:
    words, api, processes = SERVERS[server]
    told = environment | {"TRACES_WITH": api}
    with served([*RUN, "--", *words], told) as (running, port):
        answers = ask(port, "request", processes=processes)
        assert running.signal(signal.SIGTERM).ended() in {0, -signal.SIGTERM}, running.output
    assert arrived(kafka.bootstrap_servers, topic) == answers.traces


def test_a_script_by_its_shebang_and_the_child_that_it_spawns(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path
) -> None:
    source = (ROOT / "tests" / "zero_code" / "apps" / "script.py").read_text()
    script = tmp_path / "script"
    script.write_text(f"#!{sys.executable}\n{source}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with program(*RUN, str(script), environment=environment) as running:
        assert running.ended() == 0, running.output
        assert running.output == ""
    assert arrived(kafka.bootstrap_servers, topic) == {"script": 1, "child": 1}


def test_celerys_children(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path
) -> None:
    queue_tasks(tmp_path, TASKS)
    celery = ["celery", "--app", "tests.zero_code.apps.tasks", "worker", "--concurrency", "2"]
    celery += ["--without-gossip", "--without-mingle"]
    told = environment | {"TASKS_FOLDER": str(tmp_path)}
    with program(*RUN, "--", *celery, environment=told) as worker:
        worker.wait_for("done ", TASKS)
        assert worker.signal(signal.SIGTERM).ended() == 0, worker.output
    assert arrived(kafka.bootstrap_servers, topic) == numbered("task", TASKS)


def test_options_on_the_command_line_go_before_variables(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    told = environment | {"SPANFERRY_TOPIC": "another", "SPANFERRY_BOOTSTRAP_SERVERS": "no:1"}
    options = ["--bootstrap-servers", kafka.bootstrap_servers, "--topic", topic]
    traces = "import spanferry\nwith spanferry.start_span('one'): pass"
    words = [*RUN, *options, "--", sys.executable, "-c", traces]
    with program(*words, environment=told) as running:
        assert running.ended() == 0, running.output
    assert arrived(kafka.bootstrap_servers, topic) == {"one": 1}
