"""sample: outcomes, what the traces say of them, and that weights add up to the truth."""

import json
import math
import random
import statistics

import pytest
from msgspec.structs import replace

from spanferry_schemas import StatusCode, TracePart
from spanferry_schemas.record import SAMPLED_UPSTREAM as UPSTREAM
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    DecisionReason,
    Otherwise,
    Outcome,
    Randomness,
    Rule,
    Sampler,
    SamplingPolicy,
    Traits,
    read_outcome,
)
from spanferry_worker.stages.sample.randomness import SPACE, threshold
from spanferry_worker.stages.skeleton import CUT_ATTRIBUTE
from tests.worker.events import assembled, attachment, span

BIG = json.dumps({"messages": [{"role": "user", "content": "tea? " * 2_000}]}).encode()
MARK = "spanferry.sampling."


def policy(action: Action = Action.SKELETON, **fields) -> SamplingPolicy:
    shared = {k: fields.pop(k) for k in ("randomness", "salt") if k in fields}
    return SamplingPolicy(rules=[Rule(name="it", action=action, **fields)], **shared)


def trace(index: int = 1, size: int = 1_000, **metadata: str):
    return assembled(index, size=size, spans=[span(1)], trace=TracePart(metadata=dict(metadata)))


def marks(kept) -> dict[str, str]:
    return {
        key.removeprefix(MARK): value
        for key, value in kept.trace.trace.metadata.items()
        if key.startswith(MARK)
    }


def test_by_default_no_trace_is_lost_and_small_ones_are_whole():
    sampler = Sampler(SamplingPolicy())
    small = trace(size=100_000)
    decision = sampler.decide(small, NO_TABLE)
    assert decision.outcome is Outcome.FULL
    assert marks(sampler.apply(small, decision)) == {
        "rule": "size",
        "reason": "target_bytes",
        "probability": "1",
        "weight": "1",
        "size_bytes": "100000",
    }
    outcomes = {sampler.decide(trace(i, 10**6), NO_TABLE).outcome for i in range(300)}
    assert outcomes == {Outcome.FULL, Outcome.SKELETON}


def test_by_default_errors_and_what_was_judged_are_whole_whatever_their_size():
    sampler = Sampler(SamplingPolicy())
    wrong = assembled(size=10**9, spans=[span(1), span(2, parent=1, status=StatusCode.ERROR)])
    assert sampler.decide(wrong, NO_TABLE).rule == "errors"
    assert sampler.decide(wrong, NO_TABLE).outcome is Outcome.FULL
    assert sampler.decide(replace(wrong, spans=[span(1)]), NO_TABLE).outcome is Outcome.SKELETON


def test_a_policy_that_stores_everything_leaves_traces_as_they_came():
    for keeps_all in (SamplingPolicy(target_bytes=0), SamplingPolicy(rules=[])):
        sampler, one = Sampler(keeps_all), trace(size=10**9)
        assert sampler.apply(one, sampler.decide(one, NO_TABLE)).trace is one


def test_a_skeleton_says_that_it_is_one_and_how_large_it_was():
    sampler = Sampler(policy())
    one = assembled(
        size=len(BIG) + 200,
        trace=TracePart(metadata={"mine": "1"}),
        spans=[span(1, attributes={"mlflow.spanInputs": BIG, "small": b"1"})],
    )
    kept = sampler.apply(one, sampler.decide(one, NO_TABLE))
    assert kept.trace is not None
    assert kept.size < 2_000 < len(BIG)
    assert kept.trace.trace.metadata["mine"] == "1"
    assert marks(kept) == {
        "rule": "it",
        "reason": "skeleton",
        "probability": "0",
        "weight": "1",
        "size_bytes": str(len(BIG) + 200),
        "outcome": "skeleton",
        "full_weight": "0",
        "records": "spanferry.traces/0:0",
    }
    assert read_outcome(kept.trace.trace.metadata) is Outcome.SKELETON
    assert (kept.trace.positions, kept.trace.size) == (one.positions, one.size)
    attributes = kept.trace.spans[0].attributes
    assert attributes["small"] == b"1"
    assert json.loads(attributes[CUT_ATTRIBUTE]) == {"mlflow.spanInputs": len(BIG)}


def test_a_dropped_trace_gives_nothing():
    sampler = Sampler(policy(Action.DROP))
    decision = sampler.decide(trace(), NO_TABLE)
    assert decision.outcome is Outcome.DROP
    assert sampler.apply(trace(), decision) == (None, 0)


def test_attachments_do_not_make_a_trace_big():
    sampler = Sampler(policy(Action.TARGET_BYTES, target_bytes=1_000))
    one = assembled(size=50_500, spans=[span(1)], attachments=[attachment(size=50_000)])
    decision = sampler.decide(one, NO_TABLE)
    assert (decision.outcome, decision.size, decision.probability) == (Outcome.FULL, 500, 1.0)


def test_a_skeleton_keeps_the_attachments_that_it_still_names():
    kept, cut_away, nowhere = attachment(1), attachment(2), attachment(3)
    small = f'"mlflow-attachment://{kept.attachment_id}?size=20"'.encode()
    big = BIG[:-1] + f', "image": "mlflow-attachment://{cut_away.attachment_id}"}}'.encode()
    one = assembled(
        size=10**6,
        spans=[span(1, attributes={"mlflow.spanInputs": small, "mlflow.spanOutputs": big})],
        attachments=[kept, cut_away, nowhere],
    )
    sampler = Sampler(policy())
    found = sampler.apply(one, sampler.decide(one, NO_TABLE)).trace
    assert found is not None
    assert found.attachments == [kept]
    assert found.spans[0].attributes["mlflow.spanInputs"] == small


def test_what_comes_late_follows_its_trace():
    sampler = Sampler(policy())
    late = assembled(size=20_000, spans=[span(2, parent=1, attributes={"big": BIG})])
    assert sampler.follow(late, Outcome.FULL).trace is late
    assert sampler.follow(late, Outcome.DROP).trace is None
    cut = sampler.follow(late, Outcome.SKELETON).trace
    assert cut is not None
    assert CUT_ATTRIBUTE in cut.spans[0].attributes


def test_a_session_is_kept_or_not_as_a_whole():
    sampler = Sampler(policy(Action.PROBABILITY, probability=0.5))
    for session in range(40):
        turns = [
            sampler.decide(trace(turn, **{"mlflow.trace.session": str(session)}), NO_TABLE).outcome
            for turn in range(1, 8)
        ]
        assert len(set(turns)) == 1
    free = {sampler.decide(trace(turn), NO_TABLE).outcome for turn in range(40)}
    assert free == {Outcome.FULL, Outcome.SKELETON}


def test_a_session_of_several_levels_is_kept_or_not_with_all_of_its_outermost():
    sampler = Sampler(policy(Action.PROBABILITY, probability=0.5))

    def outcome(session: str) -> Outcome:
        return sampler.decide(trace(1, **{"mlflow.trace.session": session}), NO_TABLE).outcome

    trips = [f"trip-{number}" for number in range(40)]
    whole = {trip: outcome(trip) for trip in trips}
    assert set(whole.values()) == {Outcome.FULL, Outcome.SKELETON}
    for trip in trips:
        assert {outcome(json.dumps([trip, f"turn-{turn}"])) for turn in range(4)} == {whole[trip]}


@pytest.mark.parametrize(
    "session", ['["', '["a", 1]', "[]", '["", "x"]', '["a"', '["\ud800"]', "[[]]"]
)
def test_a_session_that_looks_like_levels_and_is_none(session: str):
    traits = Traits(trace(1, **{"mlflow.trace.session": session}))
    assert traits.conversation == session


def test_what_one_probability_keeps_a_higher_one_keeps_too():
    shares = (0.1, 0.3, 0.9)
    samplers = [Sampler(policy(Action.PROBABILITY, probability=share)) for share in shares]
    for index in range(300):
        whole = [s.decide(trace(index), NO_TABLE).outcome is Outcome.FULL for s in samplers]
        assert whole == sorted(whole)


def test_another_salt_chooses_others():
    one, other = (Sampler(policy(Action.PROBABILITY, probability=0.5, salt=s)) for s in "ab")
    chosen = [
        [s.decide(trace(i), NO_TABLE).outcome is Outcome.FULL for i in range(200)]
        for s in (one, other)
    ]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("otherwise", list(Otherwise))
def test_weights_add_up_to_the_truth_for_heavy_tails(otherwise: Otherwise):
    """Estimates of count and bytes are right on average; every size has a chance, however large."""
    chance = random.Random(7)
    sizes = [int(10_000 * math.exp(2.67 * chance.gauss(0, 1))) + 200 for _ in range(400)]
    sizes.append(10**9)
    sampler = Sampler(policy(Action.TARGET_BYTES, target_bytes=1_000_000, otherwise=otherwise))
    counts, totals = [], []
    giant = 0
    for _ in range(300):
        count = total = 0.0
        for size in sizes[:-1]:
            one = trace(chance.getrandbits(100), size)
            decision = sampler.decide(one, NO_TABLE)
            count += decision.weight
            total += decision.weight * size
        counts.append(count)
        totals.append(total)
    for _ in range(8_000):
        giant += (
            sampler.decide(trace(chance.getrandbits(100), sizes[-1]), NO_TABLE).outcome
            is Outcome.FULL
        )
    assert 1 <= giant <= 30  # 8 are expected
    for found, truth in ((counts, len(sizes) - 1), (totals, sum(sizes[:-1]))):
        error = statistics.stdev(found) / math.sqrt(len(found))
        assert abs(statistics.mean(found) - truth) <= 4 * error + 1e-6 * truth
    if otherwise is Otherwise.SKELETON:
        assert set(counts) == {400.0}


def test_full_weights_add_up_too():
    chance = random.Random(3)
    sampler = Sampler(policy(Action.TARGET_BYTES, target_bytes=10_000))
    count = 0.0
    for _ in range(4_000):
        decision = sampler.decide(trace(chance.getrandbits(100), 40_000), NO_TABLE)
        count += decision.full_weight
    assert count == pytest.approx(4_000, rel=0.12)


def test_what_the_app_has_chosen_before_is_multiplied_in():
    sampler = Sampler(policy(Action.PROBABILITY, probability=0.5, otherwise=Otherwise.DROP))
    weights = {sampler.decide(trace(i, **{UPSTREAM: "p:0.1"}), NO_TABLE).weight for i in range(50)}
    assert weights == {0.0, 20.0}
    whole = Sampler(SamplingPolicy()).decide(trace(1, **{UPSTREAM: "p:0.1"}), NO_TABLE)
    assert (whole.weight, whole.full_weight) == (10.0, 10.0)
    stored = Sampler(SamplingPolicy(rules=[])).apply(trace(1, **{UPSTREAM: "p:0.1"}), whole)
    assert marks(stored)["weight"] == "10"
    assert UPSTREAM not in stored.trace.trace.metadata
    garbled = Sampler(SamplingPolicy()).decide(trace(1, **{UPSTREAM: "p:7;th:zz"}), NO_TABLE)
    assert garbled.weight == 1.0


def test_opentelemetrys_randomness_is_the_trace_ids_last_56_bits():
    sampler = Sampler(policy(Action.PROBABILITY, probability=0.25, randomness=Randomness.OTEL))
    low = sampler.decide(trace(threshold(0.25) - 1), NO_TABLE)
    high = sampler.decide(trace(threshold(0.25)), NO_TABLE)
    assert (low.outcome, high.outcome) == (Outcome.SKELETON, Outcome.FULL)
    assert marks(sampler.apply(trace(), high))["ot"] == "th:c"


def test_by_the_same_randomness_the_smaller_probability_counts():
    sampler = Sampler(policy(Action.PROBABILITY, probability=0.5, otherwise=Otherwise.DROP))
    kept = trace(1, **{UPSTREAM: "th:c;rv:ffffffffffffff"})
    decision = sampler.decide(kept, NO_TABLE)
    assert (decision.outcome, decision.weight, decision.threshold) == (Outcome.FULL, 4.0, "c")
    dropped = trace(1, **{UPSTREAM: "rv:00000000000001"})
    assert sampler.decide(dropped, NO_TABLE).outcome is Outcome.DROP
    assert SPACE == 2**56


def test_reasons_are_those_of_the_action():
    for action, fields in (
        (Action.KEEP, {}),
        (Action.DROP, {}),
        (Action.PROBABILITY, {"probability": 1.0}),
    ):
        reason = Sampler(policy(action, **fields)).decide(trace(), NO_TABLE).reason
        assert reason is DecisionReason(action.value)
    nothing = SamplingPolicy(rules=[Rule(name="x", action=Action.DROP, error=True)])
    decision = Sampler(nothing).decide(trace(), NO_TABLE)
    assert (decision.reason, decision.outcome) == (DecisionReason.NO_RULE, Outcome.FULL)
