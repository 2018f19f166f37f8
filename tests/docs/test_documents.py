"""The documents tell the truth: what is generated is current, every link leads somewhere, every
promise names a test that exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]
)


def test_generated_pages_are_current(tmp_path):
    code = (
        "import runpy, sys, pathlib; g = runpy.run_path('docs/generate.py');"
        "[pathlib.Path(sys.argv[1], n).write_text(m()) for n, m in g['DOCUMENTS'].items()]"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=True)
    for page in tmp_path.iterdir():
        stale = f"{page.name} is stale: run `python docs/generate.py`"
        assert page.read_text() == (ROOT / "docs" / page.name).read_text(), stale


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_metric_that_is_named_exists():
    known = set(
        re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    )
    text = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"spanferry_[a-z]+_\w+", text)) - {"spanferry_app_"}
    assert len(named) >= 10
    assert named <= known


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 10
    for path, function in named:
        assert (ROOT / path).is_file(), path
        assert f"def {function}" in (ROOT / path).read_text(), f"{path}::{function}"
