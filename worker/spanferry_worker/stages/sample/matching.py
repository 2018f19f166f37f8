"""Rules as tests that run: made once from a policy, asked for every trace."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from spanferry_worker.stages.sample.fleet import Table
from spanferry_worker.stages.sample.rules import Rule, glob
from spanferry_worker.stages.sample.traits import Traits

__all__ = ["CompiledRule", "Condition", "compile_rule"]

Test = Callable[[Traits, Table], bool]


class Condition(NamedTuple):
    """One condition of a rule: how it reads, and its test."""

    name: str
    value: object
    holds: Test
    found: Callable[[Traits, Table], object]
    """What the trace has where the condition looks, for a person to read."""


class CompiledRule(NamedTuple):
    """A rule, its conditions, the cheap ones first, and the test of all of them."""

    rule: Rule
    conditions: tuple[Condition, ...]
    matches: Test


def compile_rule(rule: Rule) -> CompiledRule:
    """Make the tests of a rule."""
    made = [_condition(name, value) for name, value in rule.conditions.items()]
    conditions = tuple(sorted(made, key=lambda one: one.name in _COSTLY))
    return CompiledRule(rule, conditions, _all_of([one.holds for one in conditions]))


def _all_of(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def holds(traits: Traits, table: Table) -> bool:
        for test in tests:  # noqa: SIM110 - twice as fast as all() with a generator
            if not test(traits, table):
                return False
        return True

    return holds


_COSTLY: Final = frozenset({"tokens_min", "tokens_max", "cost_min", "cost_max", "span_names"})


def is_slow(traits: Traits, table: Table) -> bool:
    """Whether a trace took longer than its name's 99th percentile, where that is known."""
    limits_s = table.slow_s
    if not limits_s:
        return False
    limit_s = limits_s.get(traits.name)
    duration_s = traits.duration_s
    return limit_s is not None and duration_s is not None and duration_s > limit_s


_NUMBERS: Final[Mapping[str, Callable[[Traits], float | None]]] = {
    "bytes": lambda traits: traits.size,
    "spans": lambda traits: len(traits.trace.spans),
    "duration": lambda traits: traits.duration_s,
    "tokens": lambda traits: traits.tokens,
    "cost": lambda traits: traits.cost,
}
_FLAGS: Final[Mapping[str, Test]] = {
    "slow": is_slow,
    "error": lambda traits, _: traits.error,
    "session": lambda traits, _: traits.session is not None,
    "user": lambda traits, _: traits.user is not None,
    "feedback": lambda traits, _: len(traits.trace.assessments) > 0,
}
_TEXTS: Final[Mapping[str, Callable[[Traits], Sequence[str]]]] = {
    "states": lambda traits: (traits.state,),
    "names": lambda traits: (traits.name,),
    "span_names": lambda traits: [span.name for span in traits.trace.spans],
    "span_types": lambda traits: [span.span_type for span in traits.trace.spans],
    "experiments": lambda traits: traits.experiments,
    "active_models": lambda traits: traits.active_models,
}
_MAPS: Final[Mapping[str, Callable[[Traits], Mapping[str, str]]]] = {
    "tags": lambda traits: traits.trace.trace.tags,
    "metadata": lambda traits: traits.trace.trace.metadata,
}


def _condition(name: str, value: Any) -> Condition:
    if name in _FLAGS:
        flag = _FLAGS[name]
        if value:
            return Condition(name, value, flag, flag)

        def lacks(traits: Traits, table: Table) -> bool:
            return not flag(traits, table)

        return Condition(name, value, lacks, flag)
    if name in _TEXTS:
        return _of_texts(name, value, _TEXTS[name])
    if name in _MAPS:
        return _of_map(name, value, _MAPS[name])
    return _of_number(name, value)


def _of_texts(
    name: str, patterns: list[str], texts: Callable[[Traits], Sequence[str]]
) -> Condition:
    tests = [glob(pattern) for pattern in patterns]

    def holds(traits: Traits, _table: Table) -> bool:
        for text in texts(traits):
            for test in tests:
                if test(text):
                    return True
        return False

    def found(traits: Traits, _table: Table) -> object:
        return list(dict.fromkeys(texts(traits)))

    return Condition(name, patterns, holds, found)


def _of_map(
    name: str, patterns: dict[str, str], values: Callable[[Traits], Mapping[str, str]]
) -> Condition:
    tests = [(key, glob(pattern)) for key, pattern in patterns.items()]

    def holds(traits: Traits, _table: Table) -> bool:
        found = values(traits)
        return all(key in found and test(found[key]) for key, test in tests)

    def found(traits: Traits, _table: Table) -> object:
        return {key: values(traits).get(key) for key in patterns}

    return Condition(name, patterns, holds, found)


def _of_number(name: str, limit: float) -> Condition:
    kind, _, bound = name.removesuffix("_s").rpartition("_")
    number = _NUMBERS[kind]

    def at_least(traits: Traits, _table: Table) -> bool:
        value = number(traits)
        return value is not None and value >= limit

    def at_most(traits: Traits, _table: Table) -> bool:
        value = number(traits)
        return value is not None and value <= limit

    holds = at_least if bound == "min" else at_most

    def found(traits: Traits, _table: Table) -> object:
        return number(traits)

    return Condition(name, limit, holds, found)
