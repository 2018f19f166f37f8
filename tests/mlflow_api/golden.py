"""What spanferry stores and returns where it differs on purpose: written down, value by value.

`UPDATE_GOLDEN=1 pytest tests/mlflow_api` writes the file anew; read its diff before you
commit it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.mlflow_api.comparison import Difference

__all__ = ["Golden", "leaves", "updating"]

FILE: Final = Path(__file__).with_name("intended.json")
_OF_THE_MACHINE: Final = re.compile(r".*/mlflow\.(source\.(name|git\..*)|user)")
_LENGTH_MAX: Final = 160

Values = dict[str, list[str]]


def updating() -> bool:
    """Whether the file is to be written."""
    return os.environ.get("UPDATE_GOLDEN") == "1"


def leaves(difference: Difference) -> Iterator[tuple[str, str]]:
    """The paths and values of what is ours there, the innermost ones; none of what the machine says."""
    yield from _leaves(difference.path, difference.ours)


def _leaves(path: str, ours: Any) -> Iterator[tuple[str, str]]:
    if isinstance(ours, dict) and ours:
        for key, value in ours.items():
            yield from _leaves(f"{path}/{key}", value)
    elif isinstance(ours, list) and any(isinstance(one, dict | list) for one in ours):
        for index, value in enumerate(ours):
            yield from _leaves(f"{path}[{index}]", value)
    elif not _OF_THE_MACHINE.fullmatch(path):
        yield path, _short(repr(ours))


def _short(text: str) -> str:
    if len(text) <= _LENGTH_MAX:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[:60]}... {len(text)} characters, sha256 {digest}"


class Golden:
    """By mode and program: every path, and the values that MLflow's versions may have there."""

    def __init__(self, values: dict[str, Values]) -> None:
        self._values = values

    @classmethod
    def read(cls) -> "Golden":
        """What is written down."""
        return cls(json.loads(FILE.read_text()) if FILE.exists() else {})

    def knows(self, mode: str, program: str, difference: Difference) -> bool:
        """Whether all of what is ours there is written down; that nothing is, too."""
        known = self._values.get(f"{mode} {program}", {})
        return all(value in known.get(path, ()) for path, value in leaves(difference))

    def add(self, mode: str, program: str, difference: Difference) -> None:
        """Take it in."""
        known = self._values.setdefault(f"{mode} {program}", {})
        for path, value in leaves(difference):
            values = known.setdefault(path, [])
            if value not in values:
                values.append(value)
                values.sort()

    def write(self) -> None:
        """Sorted, so that a diff says what has changed."""
        FILE.write_text(
            json.dumps(self._values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        )
