"""mypy and pyright know the public API as its users need it: types of public_api.py, word for word."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import spanferry

ROOT = Path(__file__).parents[2]
SAMPLE = Path(__file__).with_name("public_api.py")
MODULE = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])")
DEFAULT = re.compile(r" = (?:\([^()]*\)|[^,()]+)")


class Findings(NamedTuple):
    """By line: what was revealed, and what was refused."""

    revealed: dict[int, str]
    errors: dict[int, str]


def plain(revealed: str) -> str:
    """A type in the words that both checkers share."""
    text = revealed.replace("def (", "(").replace("builtins.", "").replace("?", "")
    text = MODULE.sub("", text).replace("CoroutineType[", "Coroutine[")
    text = DEFAULT.sub(" =", text).strip()
    return f"{text} -> None" if text.endswith(")") else text  # mypy leaves that out


def run(*command: str) -> str:
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    words = [sys.executable, "-m", *command, str(SAMPLE)]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr  # the sample has errors, on purpose
    return done.stdout


def mypy() -> Findings:
    findings = Findings({}, {})
    printed = run("mypy", "--show-absolute-path", "--no-error-summary", "--hide-error-context")
    for path, line, kind, message in re.findall(
        r"^(.*?):(\d+): (\w+): (.*)$", printed, re.MULTILINE
    ):
        if Path(path) != SAMPLE:
            continue
        if kind == "error":
            findings.errors[int(line)] = message
        elif match := re.fullmatch(r'Revealed type is "(.*)"', message):
            findings.revealed[int(line)] = plain(match[1])
    return findings


def pyright() -> Findings:
    findings = Findings({}, {})
    for one in json.loads(run("pyright", "--outputjson"))["generalDiagnostics"]:
        line = one["range"]["start"]["line"] + 1
        if one["severity"] == "error":
            findings.errors[line] = one["message"]
        elif match := re.fullmatch(r'Type of ".*" is "(.*)"', one["message"], re.DOTALL):
            findings.revealed[line] = plain(match[1])
    return findings


def wanted() -> Findings:
    findings = Findings({}, {})
    for number, line in enumerate(SAMPLE.read_text().splitlines(), start=1):
        code, _, comment = line.partition("  # ")
        if code.strip().startswith("reveal_type("):
            findings.revealed[number] = comment
        elif comment == "error":
            findings.errors[number] = comment
    return findings


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_types_are_as_the_sample_says(checker: Callable[[], Findings]) -> None:
    found, said = checker(), wanted()
    assert len(said.revealed) > 40
    assert found.revealed == said.revealed
    assert sorted(found.errors) == sorted(said.errors), found.errors


def test_the_sample_leaves_nothing_out() -> None:
    text = SAMPLE.read_text()
    assert [name for name in spanferry.__all__ if f"spanferry.{name}" not in text] == []
