"""`spanferry run` as a command: it becomes the other one, or says why not."""

import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from spanferry.run import environment_of
from spanferry.settings import ConfigurationError
from tests.processes.program import program
from tests.zero_code.conftest import NOWHERE, RUN, Runs

PYTHON = sys.executable
ENABLED = "import spanferry; print(spanferry.stats().enabled)"
IMPORTED = (
    "import sys; print(sorted({m.split('.')[0] for m in sys.modules} "
    "& {'spanferry', 'spanferry_start', 'msgspec', 'importlib.util', 'logging', 'typing'}))"
)


def test_exit_code_input_and_output_are_the_commands(spanferry_run: Runs) -> None:
    done = spanferry_run("--", "sh", "-c", "read word; echo got $word; exit 7", says="this\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "got this\n", "")


def test_the_dashes_may_be_left_out_and_belong_to_the_command_later(spanferry_run: Runs) -> None:
    done = spanferry_run("--topic", "t", "sh", "-c", "echo $SPANFERRY_TOPIC $@", "sh", "--", "-x")
    assert done.stdout == "t -- -x\n"


def test_the_process_is_the_commands_and_gets_its_signals() -> None:
    waits = "import os, signal; print('is', os.getpid(), flush=True); signal.pause()"
    with program(*RUN, "--", PYTHON, "-c", waits, environment=NOWHERE) as running:
        assert running.wait_for("is ") == f"is {running.pid}"
        assert running.signal(signal.SIGTERM).ended() == -signal.SIGTERM


def test_signals_that_python_ignores_are_not_ignored_by_the_command(spanferry_run: Runs) -> None:
    done = spanferry_run("sh", "-c", "yes | head -1; kill -PIPE $$; echo still here")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGPIPE, "y\n", "")


@pytest.mark.parametrize(
    ("words", "variables", "code", "said"),
    [
        ([], {}, 2, "there is no command"),
        (["--"], {}, 2, "there is no command"),
        (["--topc", "x", "true"], {}, 2, "unrecognized arguments: --topc"),
        (["true"], {"SPANFERRY_BOOTSTRAP_SERVERS": ""}, 2, "give --bootstrap-servers host:9092"),
        (["--buffer-bytes", "64MB", "true"], {}, 2, "SPANFERRY_BUFFER_BYTES='64MB' cannot be"),
        (["--autolog", "opnai", "true"], {}, 2, "no 'opnai': did you mean openai?"),
        (["--autolog", "openai", "--mlflow", "false", "true"], {}, 2, "goes through MLflow"),
        (["true"], {"SPANFERRY_ENABLED": "flase"}, 2, "'flase' is neither true nor false"),
        (["--security-protocol", "SSL", "--ssl-ca-file", "no.pem", "true"], {}, 2, "no.pem"),
        (["no-such-command"], {}, 127, "there is no command 'no-such-command'"),
        (["/"], {}, 126, "Permission denied"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    spanferry_run: Runs, words: list[str], variables: dict[str, str], code: int, said: str
) -> None:
    done = spanferry_run(*words, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_is_no_option(spanferry_run: Runs) -> None:
    assert "--sasl-password" not in spanferry_run("--help").stdout.replace("-password-file", "")


@pytest.mark.parametrize(
    ("variables", "enabled"),
    [
        ({}, True),
        ({"SPANFERRY_ENABLED": "1"}, True),
        ({"SPANFERRY_ENABLED": "false"}, False),
        ({"SPANFERRY_ENABLED": " OFF "}, False),
        ({"ENABLE_MLFLOW_TRACING": "false"}, False),
        ({"ENABLE_MLFLOW_TRACING": "true"}, True),
        ({"SPANFERRY_ENABLED": "true", "ENABLE_MLFLOW_TRACING": "false"}, True),
        ({"SPANFERRY_ENABLED": "false", "ENABLE_MLFLOW_TRACING": "true"}, False),
    ],
)
def test_who_switches_off(variables: dict[str, str], enabled: bool) -> None:
    before = NOWHERE | variables
    after = environment_of({"topic": "t"}, before)
    assert (after != before) is enabled
    assert (after.get("SPANFERRY_TOPIC") == "t") is enabled


def test_where_it_is_off_nothing_is_checked_and_nothing_is_there(spanferry_run: Runs) -> None:
    off = {"SPANFERRY_ENABLED": "false", "SPANFERRY_BUFFER_BYTES": "64MB"}
    assert spanferry_run(PYTHON, "-c", IMPORTED, **off).stdout == "[]\n"


def test_what_the_command_sees_is_nested_once() -> None:
    once = environment_of({}, NOWHERE | {"PYTHONPATH": "/a::/b"})
    site, rest = once["PYTHONPATH"].split(os.pathsep, 1)
    assert (Path(site).name, rest) == ("site", "/a::/b")
    assert environment_of({}, once) == once


def test_a_process_that_traces_nothing_has_imported_nothing(spanferry_run: Runs) -> None:
    assert spanferry_run(PYTHON, "-c", IMPORTED).stdout == "['spanferry_start']\n"


def test_an_app_sees_the_path_that_it_would_have(spanferry_run: Runs, tmp_path: Path) -> None:
    paths = "import sys; print(sys.path)"
    plain = subprocess.run(
        [PYTHON, "-c", paths], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert spanferry_run(PYTHON, "-c", paths).stdout == plain.stdout


@pytest.mark.parametrize("code", ["import os; os.mine = 1", "raise ValueError('theirs')"])
def test_a_sitecustomize_of_the_users_runs(spanferry_run: Runs, tmp_path: Path, code: str) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sitecustomize.py").write_text(f"print('theirs', __file__)\n{code}\n")
    path = os.pathsep.join(filter(None, ["theirs", os.environ.get("PYTHONPATH")]))
    program = f"import os; print(getattr(os, 'mine', 0)); {ENABLED}"
    done = spanferry_run(PYTHON, "-c", program, PYTHONPATH=path)
    theirs = str(tmp_path / "theirs" / "sitecustomize.py")
    said = done.stdout.splitlines()[1:]  # the first line comes from the command `spanferry` itself
    assert said == [f"theirs {theirs}", "1" if "mine" in code else "0", "True"]
    assert ("ValueError: theirs" in done.stderr) is ("raise" in code)
    assert done.returncode == 0


@pytest.fixture
def other_python(tmp_path: Path) -> str:
    """One without spanferry."""
    venv.EnvBuilder(symlinks=True).create(tmp_path / "other")
    return str(tmp_path / "other" / "bin" / "python")


def test_a_python_without_spanferry_says_so_once(spanferry_run: Runs, other_python: str) -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', '1']); sys.exit(5)"
    done = spanferry_run(other_python, "-c", program, PYTHONPATH="")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert f"there is no spanferry in {other_python}: what it runs is not traced" in done.stderr


def test_a_tool_of_another_python_that_an_app_starts_is_left_alone(
    spanferry_run: Runs, other_python: str
) -> None:
    program = f"import subprocess; subprocess.run([{other_python!r}, '-c', 'print(1)'])"
    done = spanferry_run(PYTHON, "-c", program)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_secrets_are_not_shown_by_what_is_wrong() -> None:
    with pytest.raises(ConfigurationError) as refused:
        environment_of({"security_protocol": "SSL"}, NOWHERE | {"SPANFERRY_SASL_PASSWORD": "pssst"})
    assert "pssst" not in str(refused.value)
