"""retention: which stored traces are to be deleted, and how many of them at a time."""

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from spanferry_worker.stages.pace import paced

__all__ = ["STATES", "DeletionPace", "Experiment", "Selection", "StoredTrace", "files_folder"]

STATES: Final = ("OK", "ERROR", "IN_PROGRESS")
"""As MLflow calls them."""
_ARTIFACT_LOCATION: Final = "mlflow.artifactLocation"
_FILES: Final = "/artifacts"
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_VALUE: Final = re.compile(r"[^'\"`\\]+")
_TRACE_NAME: Final = "mlflow.traceName"
_OTHER_THINGS: Final = frozenset(
    {"name", "prompt", "run_id", "text", "timestamp", "execution_time", "end_time"}
)
"""Keys that MLflow's filter language takes for something else, even behind `tags.`."""


class Experiment(Struct, frozen=True):
    """One of MLflow's experiments."""

    experiment_id: str
    name: str
    artifact_location: str = ""


class StoredTrace(Struct, frozen=True):
    """What MLflow says of a trace without its spans."""

    trace_id: str
    time_ms: int
    """Its start, in milliseconds since 1970."""
    state: str
    tags: Mapping[str, str] = {}
    assessed: bool = False
    """Whether it has feedback or expectations."""


class Selection(Struct, frozen=True, kw_only=True):
    """Which traces of an experiment go: those that fit all that is given, and that nothing keeps.

    MLflow's filter finds what may fit; `matches` and `keeps` decide, for that language takes some keys of
    tags for something else, and some databases capitals for small letters.
    """

    before_ms: int
    """They started before, in milliseconds since 1970."""
    states: tuple[str, ...] = ()
    """One of these; none stands for any."""
    tags: tuple[tuple[str, str], ...] = ()
    """They have all of these."""
    keep_tags: tuple[tuple[str, str | None], ...] = ()
    """What has one of these stays; with None whatever its value is."""
    keep_assessed: bool = False
    """What has feedback or expectations stays."""

    @property
    def is_exact(self) -> bool:
        """Whether the filter alone finds what goes, and nothing else."""
        said = all(_can_be_said(key, value) for key, value in self.tags)
        return said and not self.keep_tags and not self.keep_assessed

    def condition(self, from_ms: int | None = None) -> str:
        """For MLflow's `search_traces`: finds all that goes. `from_ms`: not what started before."""
        parts = [f"timestamp_ms < {self.before_ms}"]
        if from_ms is not None:
            parts.append(f"timestamp_ms >= {from_ms}")
        if len(self.states) == 1:
            parts.append(f"status = '{self.states[0]}'")
        elif self.states:
            named = ", ".join(f"'{state}'" for state in self.states)
            parts.append(f"status IN ({named})")
        parts += [
            f"tags.`{key}` = '{value}'" for key, value in self.tags if _can_be_said(key, value)
        ]
        return " AND ".join(parts)

    def matches(self, trace: StoredTrace) -> bool:
        """Whether it fits all that is given."""
        if trace.time_ms >= self.before_ms or (self.states and trace.state not in self.states):
            return False
        return all(trace.tags.get(key) == value for key, value in self.tags)

    def keeps(self, trace: StoredTrace) -> bool:
        """Whether it stays although it fits."""
        if self.keep_assessed and trace.assessed:
            return True
        return any(
            key in trace.tags and value in {None, trace.tags[key]} for key, value in self.keep_tags
        )


class DeletionPace:
    """How many traces go in one transaction, and how long to leave MLflow alone after it.

    Begins with few, for nobody knows how large they are; doubles while a batch takes less than half of
    `GOAL_S`, shrinks where it takes more. After each batch others may write for as long as it took.
    """

    GOAL_S: Final = 1.0
    FIRST: Final = 10

    def __init__(self, most: int, pause_s: float) -> None:
        self._most = most
        self._pause_s = pause_s
        self.size = min(most, self.FIRST)
        """Of the next batch."""

    def took(self, seconds: float, count: int) -> float:
        """A batch of so many is gone; returns how long to wait before the next, in seconds."""
        size = int(paced(self.size, count, seconds, aim_s=self.GOAL_S))
        self.size = min(self._most, max(1, size))
        return max(self._pause_s, seconds)

    def failed(self) -> None:
        """A batch did not go, or nobody answered in time."""
        self.size = max(1, self.size // 2)


def files_folder(experiment: Experiment, trace: StoredTrace) -> str | None:
    """Where the files of the trace alone lie, as a URI: nothing else is ever deleted.

    None where it has no place for them. Raises ValueError for one that is not below its experiment's:
    a tag says where it is, and not only MLflow may have written that.
    """
    location = trace.tags.get(_ARTIFACT_LOCATION)
    if not location:
        return None
    root, folder = experiment.artifact_location.rstrip("/"), location.removesuffix(_FILES)
    below = folder.removeprefix(f"{root}/")
    if not root or ".." in location or below != f"traces/{trace.trace_id}" or folder == location:
        raise ValueError(
            f"its files lie in {location}, which is not where the experiment keeps those of its traces "
            f"({root or 'unknown'})"
        )
    return folder


def _can_be_said(key: str, value: str) -> bool:
    """Whether MLflow's filter language means this tag by it."""
    if key.startswith("mlflow.") and key != _TRACE_NAME:
        return False
    known = _KEY.fullmatch(key) is not None and key.lower() not in _OTHER_THINGS
    return known and value.isprintable() and _VALUE.fullmatch(value) is not None
