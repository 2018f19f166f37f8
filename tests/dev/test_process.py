"""Children end when they are told to, and when nobody is left to tell them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spanferry_worker.dev.process import Child, Port, StartError, listens, wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
WITH_GRANDCHILD = (
    "import subprocess, sys, time;"
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True);"
    "time.sleep(60)"
)
PARENT = """
import pathlib, sys, time
from spanferry_worker.dev.process import Child
child = Child("child", [sys.executable, "-c", sys.argv[2]], log=pathlib.Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether the process exists and is not merely a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 150
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def printed_pid(log: Path) -> int:
    deadline = time.monotonic() + 150
    while not log.exists() or not log.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(log.read_text())


def test_stop_ends_it_and_what_it_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Child("c", [sys.executable, "-c", WITH_GRANDCHILD], log=log) as child:
        grandchild = printed_pid(log)
        assert child.running
        assert alive(grandchild)
    assert not child.running
    assert gone(child.pid, grandchild)


def test_what_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    with Child("c", [sys.executable, "-c", STUBBORN], log=tmp_path / "log", grace_s=0.1) as child:
        time.sleep(0.2)
    assert gone(child.pid)


@pytest.mark.chaos
def test_a_killed_parent_leaves_nobody_behind(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, log, WITH_GRANDCHILD], stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        child, grandchild = int(parent.stdout.readline()), printed_pid(log)
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(child, grandchild)


def test_kill_is_at_once(tmp_path: Path) -> None:
    with Child("c", [sys.executable, "-c", STUBBORN], log=tmp_path / "log") as child:
        child.kill()
        assert not child.running


def test_a_command_that_ends_while_starting_shows_its_log(tmp_path: Path) -> None:
    code = "print('no such database'); raise SystemExit(1)"
    with (
        Child("the store", [sys.executable, "-c", code], log=tmp_path / "log") as child,
        pytest.raises(StartError, match=r"the store ended while starting(?s:.*)no such data"),
    ):
        wait_until(child, lambda: False, timeout_s=10)


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="nothing cannot be started"):
        Child("nothing", [tmp_path / "missing"], log=tmp_path / "log").start()


def test_a_port_that_is_taken_is_not_taken_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert listens(number)
        elsewhere = Port(number)
        assert elsewhere.number != number
        elsewhere.release()
    assert not listens(number)


def test_a_port_is_claimed_until_it_is_released() -> None:
    first = Port(0)
    second = Port(first.number)
    assert second.number != first.number
    first.release()
    third = Port(first.number)
    assert third.number == first.number
    second.release()
    third.release()
