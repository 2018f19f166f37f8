"""Programs forked from a warm Python are what `python -m` makes of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.better_than_native.account import wait_until
from tests.services import warm

PROGRAM = "tests.services.warm_program"

TEST_RUN = """
import sys
from tests.services.warm import Order, WarmPython
order = Order("tests.services.warm_program", ["sleep"], "/", {"PYTHONPATH": ":".join(sys.path)})
print(WarmPython([]).start(order).pid, flush=True)
sys.stdin.readline()
"""


def both(*arguments: str, cwd: Path, env: dict[str, str]) -> list[tuple[int, str, str]]:
    """Code, output and errors: of the warm one and of one that is started as usual."""
    one = warm.run(PROGRAM, *arguments, timeout=120, env=env, cwd=cwd)
    other = subprocess.run(
        [sys.executable, "-m", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
    )
    return [(done.returncode, done.stdout, done.stderr) for done in (one, other)]


@pytest.mark.parametrize("how", ["returns", "exits", "leaves"])
def test_a_program_is_as_if_it_was_started(how: str, tmp_path: Path) -> None:
    path = os.pathsep.join([str(warm.ROOT), os.environ.get("PYTHONPATH", "")])
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "LC_ALL": "C.UTF-8", "OWN": "öwn"}
    forked, started = both(how, cwd=tmp_path, env=env)
    assert forked == started
    assert (str(tmp_path) in forked[1], "öwn" in forked[1]) == (True, True)
    assert {"returns": 0, "exits": 7, "leaves": 3}[how] == forked[0]


def test_an_error_is_said_and_is_exit_code_1() -> None:
    done = warm.run(PROGRAM, "fails", timeout=120)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "ValueError: wrong")


def test_a_text_is_a_program_too() -> None:
    done = warm.run("tests.services.warm_code", "import mlflow; print(__name__)", timeout=120)
    assert (done.returncode, done.stdout) == (0, "__main__\n")


def test_signals_and_waiting() -> None:
    program = warm.start(PROGRAM, "sleep")
    assert program.stdout.readline() == "sleeps\n"
    assert program.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        program.communicate(0.01)
    program.send_signal(signal.SIGTERM)
    assert program.wait(30) == -signal.SIGTERM
    program.kill()
    assert program.communicate() == ("", "")


def test_what_runs_too_long_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(PROGRAM, "sleep", timeout=0.2)


def test_nothing_outlives_the_test_run() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TEST_RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=warm.ROOT,
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30, poll_s=0.05)
