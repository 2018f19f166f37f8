"""Programs for what holds from a process's start on, such as MLflow's environment variables."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from tests.services import warm

__all__ = ["Done", "run"]

PROGRAM_TIMEOUT_S = 100


class Done(NamedTuple):
    """What a program printed, as JSON, and what it said."""

    account: Any
    errors: str

    def __getitem__(self, key: Any) -> Any:
        return self.account[key]

    def said(self, text: str) -> int:
        """In how many lines of the log."""
        return sum(text in line for line in self.errors.splitlines())


def run(program: str, folder: Path, variables: dict[str, str], **options: Any) -> Done:
    """Run a program of this folder in a process of its own, with these environment variables.

    MLflow is imported there already; it reads its variables later than that, when they are asked for.

    `folder` is empty: MLflow's tracking URI is a database in it that nobody has made.
    """
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/untouched.db",
        "NO_PROXY": "127.0.0.1",
        **variables,
    }
    done = warm.run(
        f"tests.bridge.programs.{program}",
        json.dumps(options),
        env=environment,
        timeout=PROGRAM_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return Done(json.loads(done.stdout.splitlines()[-1]), done.stderr)
