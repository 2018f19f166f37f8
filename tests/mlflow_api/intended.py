"""Where spanferry stores or returns something else than MLflow, on purpose.

docs/mlflow-differences.md shows this list to users; a test holds the two together.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.mlflow_api.comparison import Difference

__all__ = ["INTENDED", "Intended", "as_markdown", "reason_for"]

BOTH = ("plain", "accelerated")
LIGHT = ("accelerated",)


class Intended(NamedTuple):
    """One difference, for the programs and places where it shows."""

    what: str
    """A sentence for users."""
    programs: tuple[str, ...]
    """Names; `*` stands for any."""
    modes: tuple[str, ...] = BOTH
    places: str = ".*"
    """A regular expression for the paths of differences."""
    always: bool = True
    """Whether every run shows it."""

    def covers(self, program: str, mode: str, path: str) -> bool:
        """Whether this is why something differs."""
        return (
            mode in self.modes
            and any(fnmatchcase(program, name) for name in self.programs)
            and re.fullmatch(self.places, path) is not None
        )


INTENDED: tuple[Intended, ...] = ()


def reason_for(program: str, mode: str, difference: Difference) -> Intended | None:
    """The first reason in the list."""
    return next((one for one in INTENDED if one.covers(program, mode, difference.path)), None)


def as_markdown(intended: Sequence[Intended]) -> str:
    """The list as docs/mlflow-differences.md has it."""
    lines = []
    for one in intended:
        where = "" if one.modes == BOTH else " Only with `accelerate=True`."
        lines.append(f"- {one.what}{where}")
    return "\n".join(lines) + "\n"
