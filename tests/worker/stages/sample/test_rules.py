"""sample: rules match what they say, and those that make no sense are refused by name."""

import json

import msgspec
import pytest

from spanferry_schemas import StatusCode, TracePart, TraceState
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    Otherwise,
    Rule,
    Sampler,
    SamplingPolicy,
    Table,
    default_rules,
)
from tests.worker.events import assembled, span

MS = 1_000_000


def usage(tokens: int) -> bytes:
    return json.dumps({"input_tokens": 1, "total_tokens": tokens}).encode()


TRACE = assembled(
    size=5_000,
    trace=TracePart(
        experiment="shop",
        tags={"env": "production", "mlflow.traceName": "checkout"},
        metadata={"mlflow.trace.session": "s-1", "mlflow.source.git.branch": "main"},
        active_model="agent-7",
    ),
    spans=[
        span(1, name="root", start_ns=0, end_ns=2_500 * MS),
        span(
            2,
            parent=1,
            name="ask",
            span_type="LLM",
            attributes={"mlflow.chat.tokenUsage": usage(70)},
        ),
        span(3, parent=2, name="inner", attributes={"mlflow.chat.tokenUsage": usage(50)}),
        span(
            4,
            parent=1,
            status=StatusCode.ERROR,
            attributes={
                "mlflow.chat.tokenUsage": usage(30),
                "mlflow.llm.cost": b'{"total_cost": 0.25}',
            },
        ),
    ],
)
PLAIN = assembled(size=10, spans=[span(1, name="plain")])


def takes(trace=TRACE, table: Table = NO_TABLE, **conditions) -> bool:
    rule = {"name": "it", "action": "skeleton"} | conditions
    policy = SamplingPolicy(rules=[msgspec.convert(rule, Rule)])
    return Sampler(policy).decide(trace, table).rule == "it"


@pytest.mark.parametrize(
    "conditions",
    [
        {"bytes_min": 5_000, "bytes_max": 5_000},
        {"spans_min": 4, "spans_max": 4},
        {"duration_min_s": 2.5, "duration_max_s": 2.5},
        {"error": True},
        {"states": ["OK"]},
        {"names": ["check*"]},
        {"span_names": ["nobody", "ask"]},
        {"span_types": ["LLM"]},
        {"tags": {"env": "prod*"}},
        {"metadata": {"mlflow.source.git.branch": "main"}},
        {"experiments": ["shop"]},
        {"active_models": ["agent-?"]},
        {"session": True},
        {"user": False},
        {"tokens_min": 100, "tokens_max": 100},
        {"cost_min": 0.25, "cost_max": 0.25},
        {"feedback": False},
        {"slow": False},
    ],
    ids=",".join,
)
def test_a_condition_takes_what_it_says_and_nothing_else(conditions):
    assert takes(**conditions)
    name = next(iter(conditions))
    opposite = {
        "bytes_min": {"bytes_min": 5_001},
        "spans_min": {"spans_max": 3},
        "duration_min_s": {"duration_max_s": 2.4},
        "error": {"error": False},
        "states": {"states": ["ERROR", "IN_PROGRESS"]},
        "names": {"names": ["root"]},
        "span_names": {"span_names": ["as"]},
        "span_types": {"span_types": ["llm"]},
        "tags": {"tags": {"env": "prod*", "other": "*"}},
        "metadata": {"metadata": {"mlflow.source.git.branch": "dev"}},
        "experiments": {"experiments": ["sho"]},
        "active_models": {"active_models": ["agent"]},
        "session": {"session": False},
        "user": {"user": True},
        "tokens_min": {"tokens_min": 101},
        "cost_min": {"cost_max": 0.24},
        "feedback": {"feedback": True},
        "slow": {"slow": True},
    }[name]
    assert not takes(**opposite)


def test_all_conditions_of_a_rule_must_hold_and_the_first_rule_counts():
    assert takes(error=True, session=True)
    assert not takes(error=True, session=False)
    first = Rule(name="first", action=Action.KEEP, error=True)
    second = Rule(name="second", action=Action.DROP)
    sampler = Sampler(SamplingPolicy(rules=[first, second]))
    assert sampler.decide(TRACE, NO_TABLE).rule == "first"
    assert sampler.decide(PLAIN, NO_TABLE).rule == "second"


def test_what_is_not_known_of_a_trace_fits_no_range():
    for name in ("tokens_min", "tokens_max", "cost_min", "cost_max"):
        assert not takes(PLAIN, **{name: 0})
    headless = assembled(spans=[span(2, parent=1)])
    assert not takes(headless, duration_min_s=0)
    assert takes(headless, states=["IN_PROGRESS"])


def test_the_apps_own_state_counts():
    trace = assembled(trace=TracePart(state=TraceState.ERROR), spans=[span(1)])
    assert takes(trace, states=["ERROR"])
    assert takes(trace, error=True)


def test_slow_is_by_name_and_as_the_fleet_says():
    table = Table(slow_s={"checkout": 2.4, "other": 0.1})
    assert takes(table=table, slow=True)
    assert not takes(table=Table(slow_s={"checkout": 2.6}), slow=True)
    assert not takes(table=Table(slow_s={"other": 0.1}), slow=True)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"action": "probability"}, "'it': action = \"probability\" needs probability"),
        ({"action": "keep", "target_bytes": 5}, "is the only action that takes target_bytes"),
        ({"action": "probability", "probability": 0}, "above 0 and at most 1"),
        ({"action": "target_bytes", "target_bytes": 0}, "target_bytes must be at least 1"),
        ({"action": "keep", "bytes_min": 9, "bytes_max": 8}, "no trace can match"),
        ({"action": "keep", "spans_min": -1}, "must not be negative"),
        ({"action": "keep", "names": []}, "names is empty"),
        ({"action": "keep", "tags": {}}, "tags is empty"),
        ({"action": "keep", "states": ["BAD"]}, "not BAD"),
        ({"action": "keep", "error": False, "states": ["ERROR"]}, "no trace can match"),
        ({"action": "keep", "byte_min": 1}, "unknown field `byte_min`"),
        ({"action": "hold"}, "Invalid enum value 'hold'"),
        ({"name": "no blanks", "action": "keep"}, "1 to 64 letters"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, message):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"name": "it"} | rule, Rule)
    assert message in str(caught.value)


KEEP = {"action": Action.KEEP}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {"error": True}),
        ({"bytes_min": 100}, {"bytes_min": 200, "error": True}),
        ({"bytes_max": 100}, {"bytes_max": 50}),
        ({"duration_min_s": 1.0}, {"duration_min_s": 2.0}),
        ({"names": ["a*", "b"]}, {"names": ["abc", "b"]}),
        ({"tags": {"env": "*"}}, {"tags": {"env": "prod", "x": "y"}}),
        ({"error": True}, {"states": ["ERROR"]}),
        ({"session": False}, {"session": False, "user": True}),
    ],
)
def test_a_rule_that_can_never_match_is_refused(earlier, later):
    rules = [Rule(name="one", **KEEP, **earlier), Rule(name="two", **KEEP, **later)]
    with pytest.raises(ValueError, match="'two' can never match: rule 'one' before it"):
        SamplingPolicy(rules=rules)
    SamplingPolicy(rules=rules[::-1])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"error": True}, {"error": False}),
        ({"bytes_min": 100}, {"bytes_min": 50}),
        ({"bytes_min": 100}, {"error": True}),
        ({"names": ["ab"]}, {"names": ["a*"]}),
        ({"names": ["a"]}, {"names": ["a", "b"]}),
        ({"tags": {"env": "prod", "x": "y"}}, {"tags": {"env": "prod"}}),
    ],
)
def test_a_rule_that_may_still_match_is_let_be(earlier, later):
    SamplingPolicy(rules=[Rule(name="one", **KEEP, **earlier), Rule(name="two", **KEEP, **later)])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"attribute_bytes_max": 10}, "attribute_bytes_max"),
        ({"events_bytes_max": -1}, "events_bytes_max"),
        ({"target_bytes": -1}, "target_bytes"),
        ({"salt": ""}, "salt"),
        ({"budget_bytes_s": 5}, "no rule has action"),
        ({"rules": [Rule(name="x", action=Action.BUDGET)]}, "'x': action = \"budget\" needs"),
        (
            {"rules": [Rule(name="x", **KEEP, error=True), Rule(name="x", **KEEP)]},
            "two of this name",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        SamplingPolicy(**policy)


def test_without_rules_the_default_ones_hold_and_nothing_with_a_target_of_0():
    assert [rule.name for rule in SamplingPolicy().in_force] == [
        "errors",
        "feedback",
        "slow",
        "size",
    ]
    assert default_rules(0) == SamplingPolicy(target_bytes=0).in_force == []
    assert not SamplingPolicy(rules=[]).needs_fleet


def test_a_policy_knows_whether_it_can_cut_or_drop():
    def told(*rules: Rule) -> tuple[bool, bool]:
        policy = SamplingPolicy(rules=list(rules))
        return policy.can_cut, policy.can_drop

    keep = Rule(name="a", action=Action.KEEP, otherwise=Otherwise.DROP)
    assert told() == told(keep) == (False, False)
    assert told(Rule(name="b", action=Action.SKELETON)) == (True, False)
    assert told(Rule(name="c", action=Action.PROBABILITY, probability=0.5)) == (True, False)
    chance = Rule(name="d", action=Action.PROBABILITY, probability=0.5, otherwise=Otherwise.DROP)
    assert told(chance) == (True, True)
    assert told(Rule(name="e", action=Action.DROP)) == (True, True)
    assert (SamplingPolicy().can_cut, SamplingPolicy().can_drop) == (True, False)
    assert not SamplingPolicy(target_bytes=0).can_cut
