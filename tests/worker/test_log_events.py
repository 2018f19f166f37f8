"""Every line that the worker logs has an event, every event has a line, and its name is a stable one."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import spanferry_worker
from spanferry_worker.telemetry import LogEvent

PACKAGE = Path(spanferry_worker.__path__[0])
FOLDERS = ("runtime", "services", "stages")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}


def log_calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in {"_log", "_logger", "logging", "logger"}
        ):
            yield node


def test_every_line_has_an_event_and_every_event_a_line() -> None:
    used: set[str] = set()
    calls = 0
    for path in (path for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py")):
        text = path.read_text()
        used |= set(re.findall(r"LogEvent\.([A-Z_]+)\(", text))
        for call in log_calls(path):
            calls += 1
            extra = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
            assert extra, f"{path.name}:{call.lineno} has no extra=LogEvent...()"
            source = ast.unparse(extra[0])
            assert source.startswith("LogEvent.") or f"{source} = LogEvent." in text, source
    assert calls > 30
    assert used == set(LogEvent.__members__)


def test_names_are_a_part_and_what_happened_there() -> None:
    stages = {"consume", "assemble", "sample", "write", "commit"}
    parts = stages | {"worker", "store", "dead_letter", "supervisor", "ledger"}
    for event in LogEvent:
        part, _, what = event.partition(".")
        assert part in parts
        assert re.fullmatch(r"[a-z_]+", what)


def test_a_worker_that_can_never_start_says_it_in_json() -> None:
    words = ["worker", "--bootstrap-servers=127.0.0.1:9", "--tracking-uri=nonsense://x"]
    ended = subprocess.run(
        [sys.executable, "-m", "spanferry_worker", *words, "--log-format=json", "--health-port=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 3
    assert (lines[-1]["event"], lines[-1]["level"]) == ("worker.fatal", "critical")
    assert "nonsense" in lines[-1]["message"]
