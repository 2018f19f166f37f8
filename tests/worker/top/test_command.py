"""`spanferry top` as a command: against real worker processes, and against what is none."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spanferry_worker import cli
from spanferry_worker.errors import SettingsError
from spanferry_worker.top.looking import base_url
from tests.services.process import GuardedProcess, free_port, wait_until_ready

COMMAND = [sys.executable, "-m", "spanferry_worker", "top", "--interval=0.2"]


def top(*words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "150"}
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, env=env, timeout=120
    )


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of two real workers that wait for a store which is not there."""
    port = free_port()
    words = ["worker", "--bootstrap-servers=127.0.0.1:9", "--tracking-uri=http://127.0.0.1:9"]
    words += ["--processes=2", f"--health-port={port}", "--set=process.stop_s=1"]
    process = GuardedProcess(
        [sys.executable, "-m", "spanferry_worker", *words],
        log=tmp_path_factory.mktemp("workers") / "log",
    )
    process.start()

    def both() -> bool:
        found = top("--once", "--json", f"--url=127.0.0.1:{port}")
        return found.stdout.count('"state":"waiting"') == 2

    wait_until_ready(process, both, name="workers", timeout_s=60)
    yield port
    process.stop()


def test_once_shows_every_process_and_why_it_waits(supervised: int):
    ended = top("--once", f"--health-port={supervised}")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"spanferry top  127.0.0.1:{supervised}  0 of 2 ready")
    for number in range(2):
        [row] = [one for one in lines if one.startswith(f"127.0.0.1:{supervised}#{number} ")]
        assert row.split()[1] == "waiting"
        assert any(one.startswith(f"127.0.0.1:{supervised}#{number}: waits for") for one in lines)
    assert "\x1b" not in ended.stdout


def test_json_has_a_line_for_each_look(supervised: int):
    running = subprocess.Popen(
        [*COMMAND, "--json", f"--url=http://127.0.0.1:{supervised}/metrics"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    found = [json.loads(running.stdout.readline()) for _ in range(2)]
    running.terminate()
    assert running.wait(20) == 0
    running.stdout.close()
    assert [len(one["processes"]) for one in found] == [2, 2]
    assert found[1]["processes"][0]["now"]["memory_bytes"] > 10e6
    assert found[1]["processes"][0]["per_s"]["records"] == 0


def test_live_until_q(supervised: int):
    terminal, inside = pty.openpty()
    env = os.environ | {"COLUMNS": "100", "LINES": "30", "TERM": "xterm"}
    running = subprocess.Popen(
        [*COMMAND, f"--url=127.0.0.1:{supervised}"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=env,
        start_new_session=True,
    )
    os.close(inside)
    seen = read_until(terminal, b"q leaves")
    os.write(terminal, b"q")
    seen += read_until(terminal, b"never said")
    assert running.wait(20) == 0
    os.close(terminal)
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")  # the cursor and the screen are as they were


def read_until(terminal: int, text: bytes) -> bytes:
    """What is drawn until the text is, or until nobody draws any more."""
    seen = b""
    deadline_s = time.monotonic() + 150
    while text not in seen and time.monotonic() < deadline_s:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
    return seen


def test_nobody_answers():
    ended = top("--once", f"--url=127.0.0.1:{free_port()}", f"--url=localhost:{free_port()}")
    assert ended.returncode == 1
    assert ended.stdout.startswith("spanferry top  2 addresses  0 of 2 ready")
    assert "nothing listens there" in ended.stdout
    assert "no answer" in ended.stdout


def test_without_a_terminal_it_says_what_to_do(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["top"]) == 2
    assert "--once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("worker:8790", "http://worker:8790"),
        ("http://worker:8790/metrics", "http://worker:8790"),
        ("https://ingress/spanferry/", "https://ingress/spanferry"),
    ],
)
def test_urls(given: str, url: str):
    assert base_url(given) == url


@pytest.mark.parametrize("given", ["", "ftp://worker", "http://"])
def test_what_is_no_url(given: str):
    with pytest.raises(SettingsError, match="--url"):
        base_url(given)


@pytest.mark.parametrize("words", [["--interval=0"], ["--interval=x"], ["--config=no.toml"]])
def test_wrong_usage(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    try:
        code = cli.main(["top", *words])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code in {2, 3}
    assert capsys.readouterr().err
