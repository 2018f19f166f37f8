"""What policies would have done: counts and bytes by rule, estimates, budgets, borders."""

import io
import json
import random

import pytest
from rich.console import Console

from spanferry_schemas import StatusCode
from spanferry_worker.sampling.gathering import Gatherer
from spanferry_worker.sampling.simulation import Account, Simulation
from spanferry_worker.sampling.simulation_text import as_json, shown
from spanferry_worker.settings import Settings
from spanferry_worker.stages.sample import Action, Otherwise, Outcome, Rule, SamplingPolicy
from spanferry_worker.stages.trace import AssembledTrace, FinishReason
from tests.worker.events import T0_MS, assembled, span

HALF = SamplingPolicy(
    rules=[
        Rule(name="errors", error=True, action=Action.KEEP),
        Rule(
            name="half",
            action=Action.PROBABILITY,
            probability=0.5,
            otherwise=Otherwise.DROP,
        ),
    ]
)


def trace(number: int, size: int, at_ms: int = 0, **fields) -> AssembledTrace:
    """A trace that ended `at_ms` after T0_MS; of its bytes a skeleton keeps all but the payload."""
    payload = b'"' + b"x" * max(0, size - 2_000) + b'"'
    end_ns = (T0_MS + at_ms) * 10**6
    one = span(
        1,
        start_ns=end_ns - fields.pop("for_ms", 5) * 10**6,
        end_ns=end_ns,
        attributes={"mlflow.spanInputs": payload},
        status=fields.pop("status", StatusCode.OK),
    )
    return assembled(number, size=size, spans=[one], **fields)


def printed(account: Account) -> str:
    out = io.StringIO()
    shown(Console(file=out, width=120), account, Gatherer(Settings()))
    return out.getvalue()


def test_counts_and_bytes_by_rule():
    simulation = Simulation({"half": HALF, "nothing": SamplingPolicy(rules=[])})
    traces = [trace(number, 10_000, number * 10) for number in range(400)]
    traces += [trace(1_000, 50_000, status=StatusCode.ERROR)]
    simulation.take(traces)
    account = simulation.account
    assert (account.traces, account.bytes_in) == (401, 4_050_000)
    errors, half = account.policies["half"].rules.values()
    assert (errors.traces, errors.full, errors.bytes_in, errors.bytes_stored) == (
        1,
        1,
        50_000,
        50_000,
    )
    assert half.traces == 400 == half.full + half.dropped
    assert 150 < half.full < 250
    assert half.bytes_stored == half.full * 10_000
    [none] = account.policies["nothing"].rules.items()
    assert (none[0], none[1].full, none[1].bytes_stored) == ("none", 401, 4_050_000)
    # Each of those kept by chance stands for two, so that their number says what the estimate is.
    assert account.policies["half"].estimated_traces == pytest.approx(1 + 2 * half.full)
    assert account.policies["half"].estimated_bytes == pytest.approx(50_000 + 20_000 * half.full)
    assert account.policies["nothing"].estimated_traces == pytest.approx(401)


def test_skeletons_store_what_is_left_of_them():
    policy = SamplingPolicy(rules=[Rule(name="all", action=Action.SKELETON)])
    simulation = Simulation({"cut": policy})
    simulation.take([trace(1, 50_000)])
    rule = simulation.account.policies["cut"].rules["all"]
    assert (rule.skeleton, rule.full) == (1, 0)
    assert 1_000 < rule.bytes_stored < 4_000


def budgeted(sigma: float, share: float) -> tuple[Account, int]:
    """Some minutes of traces with a median of 10 KB, and a budget of a part of their bytes."""
    chance = random.Random(5)
    sizes = [min(20_000_000, int(chance.lognormvariate(9.21, sigma))) + 1 for _ in range(6_000)]
    seconds = 200
    budget = int(share * sum(sizes) / seconds)
    rest = Rule(name="rest", action=Action.BUDGET, otherwise=Otherwise.DROP)
    simulation = Simulation({"b": SamplingPolicy(rules=[rest], budget_bytes_s=budget)})
    for number, size in enumerate(sizes):
        moment_ns = (T0_MS + number * seconds * 1000 // len(sizes)) * 10**6
        one = span(1, start_ns=moment_ns - 10**6, end_ns=moment_ns, attributes={})
        simulation.take([assembled(number, size=size, spans=[one])])
    return simulation.account, budget


def test_a_budget_is_met():
    """Also where the largest hundredth has 5 MB and more each."""
    account, budget = budgeted(2.67, 0.2)
    policy = account.policies["b"]
    assert policy.total.bytes_stored / account.seconds == pytest.approx(budget, rel=0.10)
    assert budget < policy.busiest_minute_bytes_s < 1.5 * budget
    assert f"budget {budget / 1e6:.1f} MB/s" in printed(account)


def test_estimates_tell_the_truth():
    account, budget = budgeted(1.0, 0.4)
    policy = account.policies["b"]
    assert policy.total.bytes_stored / account.seconds == pytest.approx(budget, rel=0.05)
    assert policy.total.dropped > 1_000
    assert policy.estimated_bytes == pytest.approx(account.bytes_in, rel=0.05)
    assert policy.estimated_traces == pytest.approx(account.traces, rel=0.05)


def test_what_is_slow_is_learnt_from_the_traces_before():
    simulation = Simulation({"default": SamplingPolicy()})
    simulation.take([trace(n, 1_000, at_ms=n * 100, for_ms=100) for n in range(700)])
    simulation.take([trace(9_999, 1_000, at_ms=71_000, for_ms=5_000)])
    assert simulation.account.policies["default"].rules["slow"].traces == 1


def test_late_pieces_follow_and_stand_apart():
    policy = SamplingPolicy(rules=[Rule(name="drop", bytes_min=10_000, action=Action.DROP)])
    simulation = Simulation({"p": policy})
    late = {"reason": FinishReason.LATE}
    simulation.take([trace(1, 20_000), trace(2, 5_000), trace(1, 300, **late)])
    simulation.take([trace(2, 400, **late)])
    account = simulation.account
    assert (account.traces, account.late_pieces, account.late_bytes) == (2, 2, 700)
    assert account.policies["p"].late_stored == 400
    assert "2 pieces (700 B) came late" in printed(account)


def test_traces_at_the_borders_are_left_out_and_said():
    simulation = Simulation({"all": SamplingPolicy(rules=[])}, begin_ms=T0_MS)
    open_one = {"complete": False, "reason": FinishReason.IDLE}
    simulation.take([trace(1, 100, at_ms=3, **open_one), trace(2, 100, at_ms=3)])
    simulation.take([trace(3, 100, at_ms=500, **open_one)])
    simulation.left([trace(4, 100), assembled(5, spans=[])])
    account = simulation.account
    assert (account.begun_before, account.unfinished, account.incomplete) == (1, 1, 1)
    assert account.traces == 2
    assert "2 traces were incomplete at the borders and are left out" in printed(account)


def test_the_terminal_shows_shares_estimates_and_bars():
    simulation = Simulation({"half": HALF})
    simulation.take([trace(number, 10_000, number * 10) for number in range(400)])
    rule = simulation.account.policies["half"].rules["half"]
    text = printed(simulation.account)
    assert f"{rule.full / 4:.1f} %" in text
    assert f"{rule.dropped / 4:.1f} %" in text
    bar = next(line for line in text.splitlines() if line.startswith("half") and "█" in line)
    assert bar.count("█") + bar.count("░") == 40
    assert bar.count("█") == round(40 * rule.full / 400)
    estimate = simulation.account.policies["half"].estimated_traces
    assert f"{estimate:,.0f} traces ({100 * (estimate / 400 - 1):+.1f} %)" in text


def test_nothing_to_decide_on_is_said():
    assert "0 records (0 B): no trace to decide on" in printed(Simulation({}).account)


def test_json_has_every_figure():
    simulation = Simulation({"half": HALF})
    simulation.take([trace(1, 10_000)])
    found = json.loads(as_json(simulation.account, Gatherer(Settings())))
    assert found["traces"] == 1
    half = found["policies"]["half"]
    assert half["total"]["bytes_in"] == 10_000
    assert half["rules"]["errors"]["traces"] == 0
    outcome = Outcome.FULL if half["total"]["full"] else Outcome.DROP
    assert half["estimated_traces"] == (2.0 if outcome is Outcome.FULL else 0.0)
