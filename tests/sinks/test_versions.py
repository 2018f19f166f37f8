"""The worker with every MLflow that it writes with directly, and before other servers."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow.entities import Trace
from mlflow.store.tracking.rest_store import RestStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.rest_utils import MlflowHostCreds
from mlflow.version import VERSION
from packaging.requirements import Requirement
from packaging.version import Version

from spanferry_worker.services.mlflow_bulk import TESTED
from spanferry_worker.services.mlflow_http import OLDEST_SERVER
from spanferry_worker.services.mlflow_sink import open_sink
from tests.services.environments import NEWEST_MLFLOW, python_with_mlflow
from tests.services.mlflow import MlflowServer
from tests.sinks import test_differential as differential
from tests.sinks.native_programs import PROGRAMS

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"
NEWEST = NEWEST_MLFLOW
"""Of the table, and of all that there are."""
SERVERS = ("3.17.0", NEWEST)
"""The oldest that is taken, and the newest that there is."""

STORE = ("store/db", "store/db_migrations", "store/tracking", "tracing/utils")
SAME_CODE = {"3.17.0": STORE, "3.17.1": (*STORE, "entities", "tracing/otel")}
"""Folders of MLflow that are the installed version's, letter by letter: so are the rows that come of them,
in every database. 3.17.0 has other translators of OpenTelemetry's dialects."""

ROWS = "test_bulk.py::test_rows_are_those_of_mlflows_own_methods"
PROGRAMS_ROWS = "test_differential.py::test_rows_and_answers_are_the_native_ones"
IN_SQLITE = (
    "test_bulk.py::test_every_database_of_the_installed_version_is_tested",
    "test_span_rows.py::test_a_row_is_that_of_mlflows_translation",
    f"{ROWS}[sqlite]",
)
TESTS = {
    "3.17.0": IN_SQLITE,
    NEWEST: (
        *IN_SQLITE,
        f"{ROWS}[postgres]",
        f"{ROWS}[mariadb]",
        f"{PROGRAMS_ROWS}[sqlite]",
        f"{PROGRAMS_ROWS}[postgres]",
        "test_experiments.py::test_a_trace_stays_where_its_first_part_was_put[sqlite]",
        "test_experiments.py::test_parts_that_begin_in_two_experiments_at_once[sqlite]",
    ),
}
"""What shows of a version that its rows are known; all of tests/sinks does so of the installed one."""


def run_with(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it from the checkout, and have it end well."""
    done = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done


def passed_with(python: Path, *tests: str) -> int:
    """Run these tests of this folder: how many there are, all of which pass."""
    options = ("-p", "no:cacheprovider", "-p", "no:xdist", "--quiet")
    said = run_with(python, "-m", "pytest", *options, *(f"tests/sinks/{one}" for one in tests))
    (line,) = re.findall(r"^(\d+) passed in .*$", said.stdout, re.MULTILINE)
    return int(line)


def other_python(version: str) -> Path:
    return python_with_mlflow(version)


def package(python: Path, version: str) -> Path:
    """The folder of the MLflow that an environment imports, which is of that version."""
    found = run_with(
        python, "-c", "from importlib import util; print(util.find_spec('mlflow').origin)"
    )
    folder = Path(found.stdout.strip()).parent
    assert (folder.parent / f"mlflow-{version}.dist-info").is_dir()
    return folder


def test_every_version_of_the_table_is_tested() -> None:
    assert set(TESTED) == {VERSION, *SAME_CODE, *TESTS}
    assert max(TESTED, key=Version) == NEWEST


@pytest.mark.parametrize("version", SAME_CODE)
def test_what_writes_rows_is_the_installed_versions_code(version: str) -> None:
    other, installed = package(other_python(version), version), Path(mlflow.__file__).parent
    for folder in SAME_CODE[version]:
        theirs, ours = (
            {path.relative_to(root): path.read_bytes() for path in (root / folder).rglob("*.py")}
            for root in (other, installed)
        )
        assert theirs
        assert theirs == ours, folder


@pytest.mark.parametrize("version", TESTS)
def test_rows_are_those_that_it_writes_itself(version: str) -> None:
    """By the tests of the installed version, in a process that has that one instead."""
    python = other_python(version)
    assert package(python, version).is_relative_to(python.parents[1])
    assert passed_with(python, *TESTS[version]) == len(TESTS[version])


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> differential.Native:
    return differential.Native(tmp_path_factory.mktemp("native"))


class OverTheWire:
    """A store's traces as MLflow's protocol gives them: what is not set is left out by it."""

    def __init__(self, store: SqlAlchemyStore) -> None:
        self._store = store

    def batch_get_traces(self, trace_ids: list[str]) -> list[Trace]:
        found = self._store.batch_get_traces(trace_ids)
        return [Trace.from_proto(trace.to_proto()) for trace in found]


@pytest.fixture
def server(version: str) -> Iterator[MlflowServer]:
    with MlflowServer(python=other_python(version)) as one:
        assert httpx.get(f"{one.uri}/version", trust_env=False).text == version
        yield one


@pytest.mark.parametrize("version", SERVERS)
async def test_servers_of_other_versions_read_back_the_same(
    native: differential.Native,
    version: str,
    server: MlflowServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asked over HTTP: the database may have a revision that the installed MLflow does not read."""
    sink = open_sink(server.uri, default_experiment="unused")
    await sink.open()
    await sink.write(native.batch())
    await sink.write(native.batch())
    await sink.close()
    store = RestStore(lambda: MlflowHostCreds(server.uri))
    served = differential.served_attachments(server.uri, store, native)
    ours = differential.read(store, native)
    assert served == native.attachments
    theirs = differential.read(OverTheWire(SqlAlchemyStore(native.uri, native.artifacts)), native)
    assert set(ours) == set(theirs) == set(PROGRAMS)
    for name, trace in theirs.items():
        # the protocol rounds durations to milliseconds
        took, native_took = (one["info"].pop(differential.DURATION) for one in (ours[name], trace))
        assert abs(took - native_took) <= 1, name
        differential.assert_same(ours[name], trace, name)
    said = [one.getMessage() for one in caplog.records if one.name.endswith("mlflow_http")]
    newer = f"the server runs MLflow {version}, this worker knows {VERSION}"
    assert said == ([newer] if version == NEWEST else [])


def test_the_oldest_server_that_is_taken_is_tested() -> None:
    assert Version(SERVERS[0]) == OLDEST_SERVER


def test_what_may_be_installed_is_in_the_table() -> None:
    """A version that is not would write ten times as slowly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [
        requirement.specifier
        for requirement in map(Requirement, project["optional-dependencies"]["worker"])
        if requirement.name == "mlflow"
    ]
    assert all(version in wanted for version in TESTED)
    assert f">={min(TESTED, key=Version)}" in str(wanted)


def test_the_documented_versions_are_the_tested_ones() -> None:
    (section,) = re.findall(
        r"^## MLflow's versions\n(.*?)(?=^## |\Z)", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL
    )
    rows = re.findall(r"^\| (\d[\d.]+) \| `(\w+)` \| bulk \|", section, re.MULTILINE)
    assert dict(rows) == TESTED
    (servers,) = re.findall(r"Servers of (.*?) are", section, re.DOTALL)
    assert set(re.findall(r"3\.\d+\.\d+", servers)) == {*SERVERS, VERSION}
