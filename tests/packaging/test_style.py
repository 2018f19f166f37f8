"""The tail of the code: no file, function or class grows beyond what a reader can hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("schemas", "producer", "worker", "benchmarks", "examples", "tests")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
CLASS_METHODS_MAX = 15
# Larger on purpose, with the reason.
EXCEPTIONS: dict[str, str] = {}

FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def oversize(path: Path) -> Iterator[str]:
    """What is too large in a file, as `path:name what`."""
    name = str(path.relative_to(ROOT))
    source = path.read_text()
    lines = source.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{name} has {lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{name}:{node.name} has {length} lines"
        elif isinstance(node, ast.ClassDef):
            methods = sum(isinstance(part, FUNCTIONS) for part in node.body)
            if methods > CLASS_METHODS_MAX:
                yield f"{name}:{node.name} has {methods} methods"


def test_nothing_is_too_large() -> None:
    found = [line for path in FILES for line in oversize(path)]
    assert [line for line in found if line.split(" ")[0] not in EXCEPTIONS] == []


def test_the_measure_finds_what_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    long_function = "def f():\n" + "    pass\n" * 60
    large_class = "class C:\n" + "".join(f"    def m{i}(self): ...\n" for i in range(16))
    (tmp_path / "x.py").write_text(long_function + large_class + "\n" * 399)
    assert list(oversize(tmp_path / "x.py")) == [
        "x.py has 477 lines",
        "x.py:f has 61 lines",
        "x.py:C has 16 methods",
    ]


def test_exceptions_are_still_needed() -> None:
    found = {line.split(" ")[0] for path in FILES for line in oversize(path)}
    assert set(EXCEPTIONS) <= found
