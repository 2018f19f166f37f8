"""A sampling rule: which traces it takes, and what is done with them. Validated when it is made."""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

__all__ = ["Action", "Otherwise", "Rule", "glob", "never_matching"]


class Action(StrEnum):
    """What a rule does with the traces that it takes."""

    KEEP = "keep"
    """Store them whole."""
    SKELETON = "skeleton"
    """Store them without their payloads."""
    DROP = "drop"
    PROBABILITY = "probability"
    """Store them whole with `probability`."""
    TARGET_BYTES = "target_bytes"
    """Store them whole with the probability `target_bytes` / size: small ones always."""
    BUDGET = "budget"
    """As `target_bytes`, with a target that the fleet adjusts to the policy's `budget_bytes_s`."""


class Otherwise(StrEnum):
    """What becomes of a trace that chance does not keep whole."""

    SKELETON = "skeleton"
    DROP = "drop"


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All conditions that are given must hold. Names are glob patterns (`*`, `?`, `[ab]`), any of them.

    A rule without a condition takes every trace. Raises ValueError, which names the rule.
    """

    name: str
    """How the rule is called on traces, in metrics and in messages."""
    action: Action
    probability: float | None = None
    """For `action = "probability"`: above 0, at most 1."""
    target_bytes: int | None = None
    """For `action = "target_bytes"`."""
    otherwise: Otherwise = Otherwise.SKELETON
    """For traces that are not kept whole by chance."""

    bytes_min: int | None = None
    """Record bytes of the trace, attachments apart: at least so many."""
    bytes_max: int | None = None
    """... and at most so many."""
    spans_min: int | None = None
    spans_max: int | None = None
    duration_min_s: float | None = None
    """From the root span's start to its end."""
    duration_max_s: float | None = None
    slow: bool | None = None
    """Whether it took longer than the 99th percentile of traces with its name, as the fleet sees it."""
    error: bool | None = None
    """Whether the trace's state or any span's status is ERROR."""
    states: list[str] | None = None
    """The trace's state: OK, ERROR, IN_PROGRESS."""
    names: list[str] | None = None
    """The trace's name: its root span's, or the tag `mlflow.traceName`."""
    span_names: list[str] | None = None
    """At least one span has such a name ..."""
    span_types: list[str] | None = None
    """... or type: LLM, CHAT_MODEL, RETRIEVER, TOOL, ..."""
    tags: dict[str, str] | None = None
    """Every one of these tags is set, with a value that fits its pattern."""
    metadata: dict[str, str] | None = None
    """The same for trace metadata: `mlflow.source.git.branch`, ..."""
    experiments: list[str] | None = None
    """The experiment's name or id, as the app gave it."""
    active_models: list[str] | None = None
    """The active model's name (`set_active_model(name=…)`) or id."""
    session: bool | None = None
    """Whether the trace has a session (`mlflow.trace.session`)."""
    user: bool | None = None
    """Whether it has a user (`mlflow.trace.user`)."""
    tokens_min: int | None = None
    """Total tokens, over the tree of spans as MLflow adds them up."""
    tokens_max: int | None = None
    cost_min: float | None = None
    """Total cost in USD, where the app recorded it (`mlflow.llm.cost`)."""
    cost_max: float | None = None
    feedback: bool | None = None
    """Whether feedback or an expectation came with it."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.name):
            raise ValueError(
                f"rule {self.name!r}: its name must be 1 to 64 letters, digits, '_', '.' or '-'"
            )
        problem = self._action_problem() or self._range_problem() or self._pattern_problem()
        if problem:
            raise ValueError(f"rule {self.name!r}: {problem}")

    def _action_problem(self) -> str | None:
        for parameter in (Action.PROBABILITY, Action.TARGET_BYTES):
            given = getattr(self, parameter) is not None
            if given != (self.action is parameter):
                wants = "needs" if not given else "is the only action that takes"
                return f'action = "{parameter}" {wants} {parameter}'
        if self.probability is not None and not 0 < self.probability <= 1:
            return 'probability must be above 0 and at most 1 (to drop all: action = "drop")'
        if self.target_bytes is not None and self.target_bytes < 1:
            return "target_bytes must be at least 1"
        return None

    def _range_problem(self) -> str | None:
        for low_name, high_name in _RANGES:
            low, high = getattr(self, low_name), getattr(self, high_name)
            if (low is not None and low < 0) or (high is not None and high < 0):
                return f"{low_name} and {high_name} must not be negative"
            if low is not None and high is not None and low > high:
                return f"{low_name}={low} is above {high_name}={high}: no trace can match"
        return None

    def _pattern_problem(self) -> str | None:
        for field in (*_PATTERNS, *_PATTERN_MAPS):
            patterns = getattr(self, field)
            if patterns is not None and not patterns:
                return f"{field} is empty: no trace can match; leave it out"
        unknown = set(self.states or ()) - {"OK", "ERROR", "IN_PROGRESS"}
        if unknown:
            return f"states knows OK, ERROR and IN_PROGRESS, not {', '.join(sorted(unknown))}"
        if self.error is False and self.states == ["ERROR"]:
            return 'error = false and states = ["ERROR"]: no trace can match'
        return None

    @property
    def conditions(self) -> dict[str, object]:
        """What is given of the conditions, by name."""
        values = {name: getattr(self, name) for name in _CONDITIONS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def can_drop(self) -> bool:
        """Whether it may leave nothing of a trace."""
        if self.is_certain:
            return self.action is Action.DROP
        return self.otherwise is Otherwise.DROP

    @property
    def is_certain(self) -> bool:
        """Whether chance plays no part."""
        return self.action in (Action.KEEP, Action.SKELETON, Action.DROP)


_RANGES: Final = (
    ("bytes_min", "bytes_max"),
    ("spans_min", "spans_max"),
    ("duration_min_s", "duration_max_s"),
    ("tokens_min", "tokens_max"),
    ("cost_min", "cost_max"),
)
_FLAGS: Final = ("slow", "error", "session", "user", "feedback")
_PATTERNS: Final = ("states", "names", "span_names", "span_types", "experiments", "active_models")
_PATTERN_MAPS: Final = ("tags", "metadata")
_ACTIONS: Final = frozenset({"name", "action", "probability", "target_bytes", "otherwise"})
_CONDITIONS: Final = tuple(
    field.name for field in msgspec.structs.fields(Rule) if field.name not in _ACTIONS
)


def never_matching(rules: Sequence[Rule]) -> dict[str, str]:
    """Rules that no trace reaches, each with the one before it that takes all that it would take."""
    found: dict[str, str] = {}
    for index, rule in enumerate(rules):
        for earlier in rules[:index]:
            if _covers(earlier, rule):
                found[rule.name] = earlier.name
                break
    return found


def _covers(earlier: Rule, later: Rule) -> bool:
    """Whether each condition of `earlier` follows from those of `later`."""
    theirs = later.conditions
    return all(
        _follows(name, value, theirs.get(name), theirs)
        for name, value in earlier.conditions.items()
    )


def _follows(name: str, wide: Any, narrow: Any, all_narrow: Mapping[str, object]) -> bool:
    """Whether `wide` of one condition holds wherever `narrow` of it does (None: is not given)."""
    if narrow is None:
        # A trace whose state is ERROR is an error.
        return name == "error" and wide is True and all_narrow.get("states") == ["ERROR"]
    if name in _FLAGS:
        return bool(wide == narrow)
    if name in _PATTERN_MAPS:
        return all(key in narrow and _fits(pattern, narrow[key]) for key, pattern in wide.items())
    if name in _PATTERNS:
        return all(any(_fits(pattern, one) for pattern in wide) for one in narrow)
    at_least = name.removesuffix("_s").endswith("_min")
    return bool(wide <= narrow if at_least else wide >= narrow)


def _fits(wide: str, narrow: str) -> bool:
    """Whether a pattern takes all that another takes, as far as that can be seen at a glance."""
    return wide in {narrow, "*"} or (not _MAGIC.search(narrow) and glob(wide)(narrow))


_MAGIC: Final = re.compile(r"[*?\[]")


@lru_cache(maxsize=4_096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def glob(pattern: str) -> Callable[[str], bool]:
    """The test of one pattern: a function from a text to whether it fits, upper and lower case apart."""
    if not _MAGIC.search(pattern):
        return lambda text: text == pattern
    beginning = pattern.removesuffix("*")
    if not _MAGIC.search(beginning):
        return lambda text: text.startswith(beginning)
    match = _compiled(pattern).match
    return lambda text: match(text) is not None
