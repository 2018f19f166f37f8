"""SPANFERRY_ENABLED=true alone: what the wheel's .pth file does in every Python that starts."""

import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import spanferry
import spanferry_schemas
import spanferry_start
import spanferry_worker
from tests.processes.account import arrived
from tests.services.kafka import KafkaServer
from tests.zero_code.conftest import NOWHERE, ROOT

LINE = (ROOT / "producer" / "spanferry_start.pth").read_text()
ON = NOWHERE | {"SPANFERRY_ENABLED": "true"}
LINE_COST_S = 0.001

STATE = "import spanferry; print(spanferry.stats().enabled)"
MODULES = "import sys; print([m for m in sys.modules if m.startswith(('spanferry', 'msgspec'))])"
TWICE = """
import threading, time
import spanferry
from spanferry import client
first = client._client
assert first is not None and len(threading.enumerate()) == 1
begin = time.perf_counter()
spanferry.enable(topic="the.apps")
assert time.perf_counter() - begin < 0.5
assert client._client is not first
print(client._client.settings.topic, client._client.settings.client_id)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the packages of this one, and the file where an installation puts it."""
    folder = tmp_path_factory.mktemp("installed")
    venv.EnvBuilder(symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    ours = {
        str(Path(package.__file__).parents[1])
        for package in (spanferry, spanferry_schemas, spanferry_start, spanferry_worker)
    }
    installed = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "_packages.pth").write_text("\n".join([*sorted(ours), *installed]))
    (site / "spanferry_start.pth").write_text(LINE)
    return str(folder / "bin" / "python")


def runs(python: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env=environment | variables,
    )


@pytest.mark.parametrize(
    ("variables", "imported"),
    [
        ({}, False),
        ({"SPANFERRY_ENABLED": "false"}, False),
        ({"SPANFERRY_ENABLED": ""}, False),
        ({"SPANFERRY_ENABLED": "perhaps"}, False),
        ({"ENABLE_MLFLOW_TRACING": "true"}, False),
        ({"SPANFERRY_ENABLED": "true"}, True),
        ({"SPANFERRY_ENABLED": " On "}, True),
    ],
)
def test_what_is_imported(python: str, variables: dict[str, str], imported: bool) -> None:
    found = runs(python, "-c", MODULES, **NOWHERE | variables).stdout
    ours = "['spanferry_start.watch', 'spanferry_start.libraries', 'spanferry_start']"
    assert found == (f"{ours}\n" if imported else "[]\n")


@pytest.mark.parametrize("words", [[], ["-I"], ["-E"]])
def test_it_is_on_also_where_python_is_told_to_be_isolated(python: str, words: list[str]) -> None:
    assert runs(python, *words, "-c", STATE, **ON).stdout == "True\n"
    assert runs(python, *words, "-c", STATE, **NOWHERE).stdout == "False\n"


@pytest.mark.parametrize(
    ("variables", "enabled"),
    [
        ({"SPANFERRY_ENABLED": "false"}, False),
        ({"ENABLE_MLFLOW_TRACING": "False"}, False),
        ({"ENABLE_MLFLOW_TRACING": "false", "SPANFERRY_ENABLED": "true"}, True),
        ({"ENABLE_MLFLOW_TRACING": "true"}, True),
    ],
)
def test_an_app_that_calls_enable_is_switched_off_too(
    python: str, variables: dict[str, str], enabled: bool
) -> None:
    program = "import spanferry; spanferry.enable(); print(spanferry.stats().enabled)"
    assert runs(python, "-c", program, **NOWHERE | variables).stdout == f"{enabled}\n"


def test_the_apps_own_options_go_first_and_cost_nothing_twice(python: str) -> None:
    variables = {"SPANFERRY_TOPIC": "the.environments", "SPANFERRY_CLIENT_ID": "me"}
    assert runs(python, "-c", TWICE, **ON | variables).stdout == "the.apps me\n"


def test_what_is_wrong_is_said_in_one_line_and_the_app_runs(python: str) -> None:
    done = runs(python, "-c", STATE, **ON | {"SPANFERRY_BUFFER_BYTES": "64MB"})
    assert done.stdout == "False\n"
    assert done.stderr.count("\n") == 1
    assert "SPANFERRY_ENABLED=true, but spanferry stays off" in done.stderr
    assert "SPANFERRY_BUFFER_BYTES='64MB'" in done.stderr


def test_an_app_that_names_the_broker_itself_hears_nothing(python: str) -> None:
    program = f"import spanferry; spanferry.enable(bootstrap_servers='127.0.0.1:9'); {STATE}"
    wanted = ON | {"SPANFERRY_BOOTSTRAP_SERVERS": ""}
    done = runs(python, "-c", program, **wanted)
    assert done.stdout == "True\n"
    assert "stays off" not in done.stderr


def test_an_app_that_names_it_nowhere_does(python: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text("start_span = None")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import mlflow; import mlflow"
    done = runs(python, "-c", program, **ON | {"SPANFERRY_BOOTSTRAP_SERVERS": ""})
    assert done.stderr.count("bootstrap_servers is not set") == 1


def test_the_worker_and_the_commands_are_no_apps(python: str) -> None:
    program = f"import spanferry_worker.cli; {STATE}"
    assert runs(python, "-c", program, **ON).stdout == "False\n"


@pytest.mark.kafka
def test_the_traces_of_mlflows_api_arrive(
    python: str, kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    program = "import mlflow\nwith mlflow.start_span('one'): pass"
    runs(python, "-c", program, **environment | {"SPANFERRY_ENABLED": "true"})
    assert arrived(kafka.bootstrap_servers, topic) == {"one": 1}


def test_an_interpreter_that_is_not_told_pays_nothing_worth_mentioning() -> None:
    code = compile(LINE, "spanferry_start.pth", "exec")
    samples: list[float] = []
    for _ in range(50):
        begin = time.perf_counter()
        exec(code, {})
        samples.append(time.perf_counter() - begin)
    assert statistics.median(samples) < LINE_COST_S
    assert LINE.startswith("import os; ")  # site.py runs such lines, and takes others for paths
    assert LINE.count("\n") == 1
