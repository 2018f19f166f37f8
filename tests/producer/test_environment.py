"""What is attached to every trace of a process, against MLflow's own resolver in a real checkout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import warm

OURS = "from spanferry.environment import collect_environment as c; import json; print(json.dumps(c()))"
MLFLOWS = (
    "from mlflow.tracing.utils.environment import resolve_env_metadata as r; "
    "import json; print(json.dumps(r()))"
)


def collected(code: str, directory: object) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def mlflows(directory: Path) -> dict[str, str]:
    done = warm.run("tests.services.warm_code", MLFLOWS, timeout=120, cwd=directory)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def git(directory: object, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-b", "trunk")
    git(tmp_path, "remote", "add", "origin", "https://me:secret@example.org/app.git")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    return tmp_path


def test_in_a_checkout_as_mlflow(checkout):
    ours = collected(OURS, checkout)
    assert ours == mlflows(checkout)
    assert ours["mlflow.source.git.branch"] == "trunk"
    assert ours["mlflow.source.git.repoURL"] == "https://example.org/app.git"


def test_on_a_detached_head_as_mlflow(checkout):
    git(checkout, "checkout", "--detach")
    assert collected(OURS, checkout) == mlflows(checkout)


def test_outside_of_a_checkout_as_mlflow(tmp_path):
    assert collected(OURS, tmp_path) == mlflows(tmp_path)
