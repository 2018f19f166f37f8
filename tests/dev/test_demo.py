"""`spanferry demo` and `spanferry dev` as their users start them, from nothing to nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.mlflow

START_S = 200.0


class Command:
    """A running `spanferry` command, what it has printed, and what it has started."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._log = directory / "output"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spanferry_worker", *arguments],
                cwd=directory,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "COLUMNS": "100"},
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + START_S
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def descendants(self) -> set[int]:
        """All that it has started, and what that has started."""
        parents: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(stat.parent.name)] = int(fields[1])
        found, new = set[int](), {self.process.pid}
        while new:
            found |= new
            new = {pid for pid, parent in parents.items() if parent in new}
        return found - {self.process.pid}


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Command]:
    command = Command(directory, *arguments)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()


def alive(pids: set[int]) -> set[int]:
    """Those that run; a zombie that nobody has waited for does not."""
    states: dict[int, str] = {}
    for pid in pids:
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return {pid for pid, state in states.items() if state != "Z"}


def assert_gone(pids: set[int]) -> None:
    assert pids
    deadline = time.monotonic() + 150
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids)


@pytest.mark.chaos
def test_every_trace_arrives_though_the_worker_is_killed(tmp_path: Path) -> None:
    arguments = ("--requests=40", "--exit", "--kill-worker", "--timeout=200", "--port=0")
    with running(tmp_path, "demo", *arguments) as demo:
        demo.wait_for("sending")
        pids = demo.descendants()
        assert demo.process.wait(START_S) == 0, demo.output
    assert "killed with -9" in demo.output
    assert "40 of 40 traces are in MLflow, complete" in demo.output
    assert "ratings 4 of 4 · dropped by the app 0 · dead letters 0" in demo.output
    assert re.search(r"1 MB +1 +\d+\.\d\d ms", demo.output)
    assert re.search(r"http://127\.0\.0\.1:\d+/#/experiments/1/traces", demo.output)
    assert_gone(pids)


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_it_starts_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, "demo", "--port=0") as demo:
        deadline = time.monotonic() + START_S
        while len(pids := demo.descendants()) < 8 and time.monotonic() < deadline:
            time.sleep(0.1)  # four guards and what they guard
        demo.process.send_signal(number)
        code = demo.process.wait(60)
    assert code == (128 + number if number is signal.SIGTERM else -number)
    assert_gone(pids)


def test_dev_is_what_the_doctor_finds_well_and_keeps_its_traces(tmp_path: Path) -> None:
    with running(tmp_path, "dev", "--port=0", "--broker-port=0") as dev:
        dev.wait_for("Ctrl-C")
        pids = dev.descendants()
        found = re.search(r"SPANFERRY_BOOTSTRAP_SERVERS=(\S+)(?s:.*)(http://\S+)/#/", dev.output)
        assert found is not None, dev.output
        servers, uri = f"--bootstrap-servers={found[1]}", f"--tracking-uri={found[2]}"
        doctor = subprocess.run(
            [sys.executable, "-m", "spanferry_worker", "doctor", servers, uri],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert doctor.returncode == 0, doctor.stdout
        assert doctor.stdout.endswith("All is well.\n")
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(60) == 0
    assert_gone(pids)
    assert (tmp_path / "spanferry-dev" / "mlflow.db").stat().st_size > 0


def test_a_directory_of_somebody_else_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "spanferry-demo").mkdir()
    (tmp_path / "spanferry-demo" / "thesis.txt").touch()
    with running(tmp_path, "demo", "--exit") as demo:
        assert demo.process.wait(60) == 1
    assert "not empty and not ours" in demo.output
