"""The list of programs: small apps that use nothing but MLflow's public API."""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["PROGRAMS", "Program", "Stage", "load_programs", "program", "reason_to_skip"]

MODULES = (
    "decorated",
    "generators",
    "spans",
    "open_spans",
    "no_context",
    "client",
    "current_trace",
    "models_and_runs",
    "destinations",
    "switches",
    "assessments",
    "tags",
    "merged",
    "attachments",
    "values",
    "failures",
    "concurrency",
    "distributed",
    "durations",
    "otel",
    "prompts",
    "autolog_openai",
    "autolog_langchain",
    "autolog_others",
)


class Stage(NamedTuple):
    """What a program is given by the runner."""

    mode: str
    program: str
    models_url: str
    """The fake of the model providers' HTTP APIs."""
    settle: Callable[[], Any]
    """Native: wait until what has ended is stored. spanferry: nothing, nobody has to wait."""

    def experiment(self, suffix: str) -> str:
        """Another experiment of this program: its id."""
        import mlflow

        return mlflow.create_experiment(f"{self.mode}-{self.program}-{suffix}")


class Program(NamedTuple):
    """One program, and what it needs."""

    name: str
    run: Callable[[Stage], Any]
    needs: tuple[str, ...]
    """Packages."""
    since: tuple[int, ...]
    """The MLflow version that brought what it uses."""
    concurrent: bool
    """Whether the order of spans of one parent is left to chance."""


PROGRAMS: dict[str, Program] = {}


def program(
    *, needs: tuple[str, ...] = (), since: str = "3.11", concurrent: bool = False
) -> Callable[[Callable[[Stage], Any]], Callable[[Stage], Any]]:
    """Add the decorated function to the list, under its own name."""
    version = tuple(map(int, since.split(".")))

    def add(function: Callable[[Stage], Any]) -> Callable[[Stage], Any]:
        name = function.__name__
        assert name not in PROGRAMS, name
        PROGRAMS[name] = Program(name, function, needs, version, concurrent)
        return function

    return add


def load_programs() -> dict[str, Program]:
    """All programs, in the order in which they run."""
    for module in MODULES:
        importlib.import_module(f"tests.mlflow_api.programs.{module}")
    return PROGRAMS


def reason_to_skip(one: Program, mlflow_version: str) -> str | None:
    """Why a program cannot run here, if it cannot."""
    if tuple(map(int, mlflow_version.split(".")[:3])) < one.since:
        return f"needs mlflow {'.'.join(map(str, one.since))}"
    missing = [name for name in one.needs if importlib.util.find_spec(name) is None]
    return f"needs {missing[0]}" if missing else None
