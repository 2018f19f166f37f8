"""Every rule and condition is shown as the sampler sees it, and what is unknown is named."""

import json

import pytest

from spanferry_schemas import StatusCode, TracePart, trace_id_text
from spanferry_worker.sampling.explain_text import as_json, explanation_lines, found_lines
from spanferry_worker.sampling.explaining import Explanation, explain
from spanferry_worker.sampling.finding import Found
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    Otherwise,
    Outcome,
    Rule,
    Sampler,
    SamplingPolicy,
    Table,
)
from tests.worker.events import T0_MS, assembled, feedback, number, span


def explained(trace, *rules: Rule, table: Table | None = NO_TABLE, **policy) -> Explanation:
    made = SamplingPolicy(rules=list(rules) or None, **policy)
    return explain(trace, Sampler(made), "mine", table)


def text(seen: Explanation) -> str:
    return "\n".join(explanation_lines(seen))


def test_each_condition_says_what_the_trace_has():
    trace = assembled(size=5_000, trace=TracePart(tags={"tier": "free"}))
    seen = explained(
        trace,
        Rule(name="paid", tags={"tier": "paid*"}, bytes_min=1_000, action=Action.KEEP),
        Rule(name="tools", span_types=["TOOL", "LLM"], action=Action.KEEP),
        Rule(name="small", bytes_max=5_000, error=False, action=Action.SKELETON),
        Rule(name="rest", action=Action.DROP),
    )
    assert [(rule.matches, rule.decides) for rule in seen.rules] == [
        (False, False),
        (False, False),
        (True, True),
        (True, False),
    ]
    assert text(seen).splitlines() == [
        "policy mine:",
        "  1. paid (keep): does not match",
        "       it has at least 1.0 KB: holds (it has 5.0 KB)",
        '       of its tags tier = "paid*": does not hold (it has tier = free)',
        "  2. tools (keep): does not match",
        '       a span\'s type is "TOOL" or "LLM": does not hold (it has CHAIN)',
        "  3. small (skeleton): matches, and decides",
        "       it has at most 5.0 KB: holds (it has 5.0 KB)",
        "       neither it nor any of its spans failed: holds (no)",
        "  4. rest (drop): matches",
        '  it is stored as a skeleton, by rule "small" (skeleton)',
        "  it stands for 1 among all stored, 0 among those stored whole",
        "  5.0 KB of 5.0 KB are stored",
    ]


@pytest.mark.parametrize("otherwise", Otherwise)
def test_chance_is_shown_as_a_fraction_against_its_limit(otherwise: Otherwise):
    outcomes = set()
    for name in range(40):
        trace = assembled(name, size=200_000)
        rule = Rule(name="size", action=Action.TARGET_BYTES, target_bytes=100_000)
        seen = explained(trace, Rule(**{**_fields(rule), "otherwise": otherwise}))
        whole = seen.chance >= 0.5
        assert (seen.decision.outcome is Outcome.FULL) == whole
        outcomes.add(seen.decision.outcome)
        shown = text(seen)
        assert "probability 0.5: 100.0 KB of 200.0 KB\n" in shown
        relation = "at least" if whole else "below"
        assert f"{seen.chance:.6f}, from the trace id: {relation} 0.500000\n" in shown
        assert ("stands for" in shown) == (seen.decision.outcome is not Outcome.DROP)
    assert outcomes == {Outcome.FULL, Outcome(otherwise.value)}


def _fields(rule: Rule) -> dict[str, object]:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


def test_without_a_table_what_is_slow_is_unknown_and_named():
    trace = assembled(size=5_000)
    seen = explained(trace, table=None)
    assert [rule.matches for rule in seen.rules] == [False, False, None, True]
    [unknown] = seen.unknown
    assert "above how many seconds a trace named 'span-1' is slow" in unknown
    assert "not known, and it may change this: rule 'slow'" in text(seen)
    known = explained(trace, table=Table(slow_s={"span-1": 0.004}))
    assert known.unknown == []
    assert known.decision.rule == "slow"
    assert "it took 0.005 s, the limit is 0.004 s" in text(known)
    unlimited = explained(trace, table=Table(slow_s={"other": 0.004}))
    assert unlimited.decision.rule == "size"
    assert "no limit is known" in text(unlimited)


def test_what_a_rule_before_the_unknown_decides_is_certain():
    failed = assembled(spans=[span(1, status=StatusCode.ERROR)])
    assert explained(failed, table=None).unknown == []


def test_a_budget_needs_the_table_of_its_time():
    rule = Rule(name="rest", action=Action.BUDGET, otherwise=Otherwise.DROP)
    trace = assembled(size=400_000)
    with_table = explained(
        trace, rule, budget_bytes_s=1_000, table=Table(targets={"live": 100_000.0})
    )
    assert with_table.decision.probability == 0.25
    assert with_table.target_bytes == 100_000
    assert "100.0 KB of 400.0 KB, as the fleet agreed for its time" in text(with_table)
    without = explained(trace, rule, budget_bytes_s=1_000, table=None)
    assert [
        "up to how many bytes the fleet stores traces whole" in one for one in without.unknown
    ] == [True]


def test_sessions_and_samplers_before_us_are_said():
    metadata = {"mlflow.trace.session": "s-1", "spanferry.sampling.upstream": "p:0.1"}
    trace = assembled(size=200_000, trace=TracePart(metadata=metadata))
    rule = Rule(name="some", action=Action.PROBABILITY, probability=0.5)
    shown = text(explained(trace, rule))
    assert "from the session id" in shown
    assert "sampled before: p:0.1" in shown
    assert "it stands for 10 among all stored" in shown


def test_no_rule_keeps_it_whole():
    shown = text(explained(assembled(), Rule(name="huge", bytes_min=10**9, action=Action.DROP)))
    assert "no rule takes it: it is stored whole" in shown
    assert "it is stored whole, by no rule (no_rule)" in shown


def test_what_kafka_has_of_it_is_said():
    first, late = assembled(7), assembled(7, spans=[], assessments=[feedback()])
    found = Found(number(7), [first, late], 2, T0_MS, T0_MS + 1_000, is_open=False)
    lines = list(found_lines(found))
    assert lines[0].startswith(f"{trace_id_text(number(7))}: 2 records in partition 0, 2023-11-14T")
    assert "  name          span-1" in lines
    assert lines[-1] == "  came later, follows the decision: 0 spans, 1 assessments"
    unfinished = Found(number(7), [first], 1, T0_MS, T0_MS, is_open=True)
    assert "a worker waits for more of it" in "".join(found_lines(unfinished))


def test_json_says_the_same():
    trace = assembled(size=5_000)
    found = Found(number(1), [trace], 1, T0_MS, T0_MS, is_open=False)
    [policy] = json.loads(as_json(found, [explained(trace)]))["policies"]
    assert policy["decision"]["rule"] == "size"
    assert [rule["name"] for rule in policy["rules"]] == ["errors", "feedback", "slow", "size"]
    assert policy["rules"][3]["conditions"] == []
    assert 0 <= policy["chance"] < 1
