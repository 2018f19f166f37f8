"""Policies in words."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from spanferry_worker.stages.sample import Action, Otherwise, Rule, SamplingPolicy
from spanferry_worker.text import printable, size_text

__all__ = ["condition_sentence", "policy_sentences", "rule_sentence"]

_OTHERWISE: Final = {Otherwise.SKELETON: "else as a skeleton", Otherwise.DROP: "else dropped"}
_CERTAIN: Final = {
    Action.KEEP: "stored whole",
    Action.SKELETON: "stored as a skeleton",
    Action.DROP: "dropped",
}


def _any_of(patterns: Sequence[str]) -> str:
    return " or ".join(f'"{printable(pattern)}"' for pattern in patterns)


def _pairs(patterns: dict[str, str]) -> str:
    return " and ".join(
        f'{printable(key)} = "{printable(value)}"' for key, value in patterns.items()
    )


def _flag(yes: str, no: str) -> Callable[[Any], str]:
    return lambda value: yes if value else no


_SENTENCES: Final[dict[str, Callable[[Any], str]]] = {
    "bytes_min": lambda value: f"it has at least {size_text(value)}",
    "bytes_max": lambda value: f"it has at most {size_text(value)}",
    "spans_min": lambda value: f"it has at least {value:,} spans",
    "spans_max": lambda value: f"it has at most {value:,} spans",
    "duration_min_s": lambda value: f"it took at least {value:g} s",
    "duration_max_s": lambda value: f"it took at most {value:g} s",
    "slow": _flag(
        "it took longer than 99 of 100 traces of its name",
        "it did not take longer than 99 of 100 traces of its name",
    ),
    "error": _flag("it or one of its spans failed", "neither it nor any of its spans failed"),
    "states": lambda value: f"its state is {_any_of(value)}",
    "names": lambda value: f"its name is {_any_of(value)}",
    "span_names": lambda value: f"a span's name is {_any_of(value)}",
    "span_types": lambda value: f"a span's type is {_any_of(value)}",
    "tags": lambda value: f"of its tags {_pairs(value)}",
    "metadata": lambda value: f"of its metadata {_pairs(value)}",
    "experiments": lambda value: f"its experiment is {_any_of(value)}",
    "active_models": lambda value: f"its active model is {_any_of(value)}",
    "session": _flag("it has a session", "it has no session"),
    "user": _flag("it has a user", "it has no user"),
    "tokens_min": lambda value: f"it used at least {value:,} tokens",
    "tokens_max": lambda value: f"it used at most {value:,} tokens",
    "cost_min": lambda value: f"it cost at least {value:g} USD",
    "cost_max": lambda value: f"it cost at most {value:g} USD",
    "feedback": _flag("feedback came with it", "no feedback came with it"),
}


def condition_sentence(name: str, value: object) -> str:
    """One condition as words that follow "where"."""
    return _SENTENCES[name](value)


def rule_sentence(rule: Rule, policy: SamplingPolicy) -> str:
    """What a rule takes and what it does, without its name."""
    conditions = [condition_sentence(name, value) for name, value in rule.conditions.items()]
    where = f"where {' and '.join(conditions)}" if conditions else "every trace"
    return f"{where}: {_action(rule, policy)}"


def _action(rule: Rule, policy: SamplingPolicy) -> str:
    certain = _CERTAIN.get(rule.action)
    if certain is not None:
        return certain
    rest = _OTHERWISE[rule.otherwise]
    if rule.action is Action.PROBABILITY:
        return f"stored whole with the probability {rule.probability:g}, {rest}"
    if rule.action is Action.TARGET_BYTES:
        target = size_text(rule.target_bytes or 0)
        return (
            f"stored whole up to {target}, larger ones with the probability {target} / size, {rest}"
        )
    budget = size_text(policy.budget_bytes_s or 0)
    return (
        f"stored whole as far as the fleet's budget of {budget} a second allows, larger ones with the "
        f"probability target / size, {rest}"
    )


def policy_sentences(policy: SamplingPolicy) -> Iterator[str]:
    """The rules in order, one a line, and what follows where none matches."""
    rules = policy.in_force
    width = max((len(rule.name) for rule in rules), default=0)
    for number, rule in enumerate(rules, 1):
        yield f"{number:>3}. {rule.name:<{width}}  {rule_sentence(rule, policy)}"
    if not rules or all(rule.conditions for rule in rules):
        others = "every other trace" if rules else "every trace"
        yield f"     {others}: stored whole"
