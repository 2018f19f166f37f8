"""sample: tables that all workers agree on, a budget that is met, and what counts as slow."""

import math
import random
from collections.abc import Iterator

import pytest

from spanferry_schemas import StatusCode
from spanferry_worker.stages.sample import (
    LIVE,
    Action,
    FleetEvent,
    FleetState,
    Outcome,
    Report,
    Rule,
    Sampler,
    SamplingPolicy,
    SlowLimits,
    Table,
    Traits,
    bucket_of,
    decode_event,
    encode_event,
    event_key,
)
from spanferry_worker.stages.sample.account import Account
from spanferry_worker.stages.sample.budget import UNBOUND, Demand, Offers, expected, size_bin, solve
from spanferry_worker.stages.sample.durations import Durations, duration_bin
from spanferry_worker.stages.sample.fleet import BUCKET_MS
from spanferry_worker.stages.trace import AssembledTrace
from tests.worker.events import T0_MS, assembled, span

SKELETON_BYTES = 3_000


class Worker:
    """The sample stage of one worker, without a store: a log is a list that all read."""

    def __init__(self, name: str, policy: SamplingPolicy, log: list[bytes]) -> None:
        self.name = name
        self.sampler = Sampler(policy)
        self.budgets = {LIVE: float(policy.budget_bytes_s or 0)}
        self.state = FleetState()
        self.account = Account()
        self._log = log
        self._read = 0
        self._number = 0

    def catch_up(self) -> None:
        for value in self._log[self._read :]:
            event = decode_event(value)
            assert event is not None
            self.state.apply(event)
        self._read = len(self._log)

    def write(self, events: list[FleetEvent]) -> None:
        self._log += map(encode_event, events)
        self.catch_up()

    def decide(self, trace: AssembledTrace) -> tuple[Outcome, int, float]:
        """Outcome, bytes stored and weight."""
        bucket = bucket_of(Traits(trace).moment_ms)
        self.catch_up()
        if self.state.table(bucket) is None:
            self.write(self.state.propose(bucket, self.budgets, self.name))
        table = self.state.table(bucket)
        assert table is not None
        decision = self.sampler.decide(trace, table)
        small = min(trace.size, SKELETON_BYTES)
        stored = trace.size if decision.outcome is Outcome.FULL else small
        self.account.decided(LIVE, bucket, decision, stored)
        self.account.took(Traits(trace))
        return decision.outcome, stored, decision.weight

    def report(self) -> None:
        demands, durations = self.account.take()
        self._number += 1
        self.write([Report(self.name, self._number, demands, self.budgets, durations)])


RATE, SECONDS, WARM_UP_S = 400, 90, 30
SIGMA = math.log(500) / 2.326  # median 10 KB, 99th percentile 5 MB
SIZE_MAX = 50_000_000
BUDGET = 22_300_000  # a second: a fifth of what is offered


def traffic(seed: int) -> Iterator[AssembledTrace]:
    """A lognormal mix, up to twice a second's budget; one of a hundred is an error."""
    chance = random.Random(seed)
    for index in range(RATE * SECONDS):
        now_ns = (T0_MS + index * 1000 // RATE) * 1_000_000
        status = StatusCode.ERROR if chance.random() < 0.01 else StatusCode.OK
        size = min(SIZE_MAX, int(10_000 * math.exp(SIGMA * chance.gauss(0, 1))) + 300)
        root = span(1, status=status, start_ns=now_ns - 10**8, end_ns=now_ns)
        yield assembled(chance.getrandbits(120), size, spans=[root])


@pytest.mark.parametrize("seed", [1])
def test_a_budget_of_a_fifth_is_met_and_weights_add_up(seed: int):
    budget = BUDGET
    policy = SamplingPolicy(
        budget_bytes_s=budget,
        rules=[
            Rule(name="errors", error=True, action=Action.KEEP),
            Rule(name="rest", action=Action.BUDGET),
        ],
    )
    log: list[bytes] = []
    workers = [Worker("a", policy, log), Worker("b", policy, log)]
    stored = true_bytes = count = 0
    counted = counted_bytes = 0.0
    reported = [T0_MS, T0_MS + 500]
    errors = errors_whole = skeletons = 0
    decisions: list[Outcome] = []
    for number, trace in enumerate(traffic(seed)):
        turn = number % 2
        now_ms = Traits(trace).moment_ms
        if now_ms - reported[turn] >= 1_000:
            reported[turn] = now_ms
            workers[turn].report()
        outcome, size, weight = workers[turn].decide(trace)
        decisions.append(outcome)
        errors += Traits(trace).error
        errors_whole += Traits(trace).error and outcome is Outcome.FULL
        skeletons += outcome is Outcome.SKELETON
        if now_ms >= T0_MS + WARM_UP_S * 1000:
            stored += size
            count += 1
            true_bytes += trace.size
            counted += weight
            counted_bytes += weight * trace.size
    allowed = budget * (SECONDS - WARM_UP_S)
    assert true_bytes == pytest.approx(5 * allowed, rel=0.15)
    assert stored == pytest.approx(allowed, rel=0.05)
    assert counted == pytest.approx(count, rel=0.03)
    assert counted_bytes == pytest.approx(true_bytes, rel=0.03)
    assert errors == errors_whole > 0
    assert skeletons > 0
    assert Outcome.DROP not in decisions
    # A replay by a worker that comes new, with the log as it is now, decides the same.
    fresh = Worker("c", policy, log)
    assert [fresh.decide(trace)[0] for trace in traffic(seed)] == decisions


def test_two_who_propose_at_once_go_by_the_first_in_the_log():
    states = [FleetState(), FleetState()]
    table, other = Table(7, {LIVE: 5.0}, 0, author="a"), Table(7, {LIVE: 9.0}, 0, author="b")
    assert event_key(table) != event_key(other)
    for state in states:
        for event in (table, other):
            state.apply(event)
    assert [state.table(7) for state in states] == [table, table]


def test_a_report_that_comes_twice_counts_once():
    state = FleetState()
    demand = Demand({size_bin(1_000): Offers(10, 10_000)}, 0, 10_000)
    report = Report("a", 1, {LIVE: {3: demand}}, {LIVE: 1.0})
    for _ in range(2):
        state.apply(report)
    [events] = [state.propose(5, {LIVE: 5_000.0}, "a")]
    table = events[-1]
    assert isinstance(table, Table)
    # 10,000 bytes in 2 s are what is allowed, if they are counted once.
    assert table.targets[LIVE] == UNBOUND


def test_a_quiet_service_is_stored_whole_and_has_no_credit_for_later():
    state = FleetState()
    quiet = Demand({size_bin(1_000): Offers(5, 5_000)}, 0, 5_000)
    for bucket in range(40, 140):
        state.apply(Report("a", bucket, {LIVE: {bucket: quiet}}))
    busy = Demand({size_bin(1_000): Offers(1_000, 10**6)}, 0, 10**6)
    state.apply(Report("a", 200, {LIVE: {140: busy}}))
    [*_, before] = state.propose(141, {LIVE: 20_000.0}, "a")
    [*_, after] = state.propose(142, {LIVE: 20_000.0}, "a")
    assert isinstance(before, Table)
    assert isinstance(after, Table)
    assert before.targets[LIVE] == UNBOUND
    assert after.targets[LIVE] < 1_000


def test_what_others_keep_is_taken_off_the_budget_and_every_size_keeps_a_chance():
    state = FleetState()
    demand = Demand({size_bin(10**6): Offers(10, 10**7)}, other=10**9, stored=10**9)
    state.apply(Report("a", 1, {LIVE: {10: demand}}))
    [*_, table] = state.propose(12, {LIVE: 1_000.0}, "a")
    assert isinstance(table, Table)
    assert 1 <= table.targets[LIVE] < 2


def test_the_target_is_where_the_expected_bytes_are_those_wanted():
    chance = random.Random(5)
    demand = Demand()
    for _ in range(2_000):
        size = int(math.exp(chance.gauss(9, 2))) + 1
        demand += Demand({size_bin(size): Offers(1, size, min(size, 500), 1)}, 0, 0)
    total = demand.offered_bytes
    for share in (0.1, 0.5, 0.9):
        assert expected(demand, solve(demand, share * total)) == pytest.approx(
            share * total, rel=1e-6
        )
    assert solve(demand, total) == UNBOUND


def test_slow_is_the_slowest_hundredth_of_each_name():
    durations, chance = Durations(), random.Random(1)
    seen: dict[str, list[float]] = {"fast": [], "slow": []}
    for name, mean in (("fast", 0.01), ("slow", 3.0)):
        for _ in range(20_000):
            taken = mean * math.exp(chance.gauss(0, 0.5))
            seen[name].append(taken)
            durations.add({name: {duration_bin(taken): 1}})
    durations.add({"rare": {duration_bin(1.0): 99}})
    limits = durations.limits_s()
    assert limits.keys() == {"fast", "slow"}
    for name, taken in seen.items():
        above = sum(one > limits[name] for one in taken) / len(taken)
        assert 0.006 <= above <= 0.0101


def test_old_days_are_forgotten():
    durations = Durations()
    durations.add({"x": {duration_bin(0.01): 1_000}})
    for _ in range(200):
        durations.age()
    assert durations.limits_s() == {}
    durations.add({"x": {duration_bin(5.0): 100}})
    assert durations.limits_s()["x"] == pytest.approx(5.0, rel=0.1)


def test_limits_of_what_is_slow_are_read_with_the_table():
    state = FleetState()
    state.apply(Report("a", 1, {}, {}, {"ask": {duration_bin(1.0): 500}}))
    for event in state.propose(30, {}, "a"):
        wired = decode_event(encode_event(event))
        assert wired is not None
        state.apply(wired)
    table = state.table(30)
    assert table is not None
    assert table.slow_s["ask"] == pytest.approx(1.0, rel=0.06)
    assert not any(isinstance(e, SlowLimits) for e in state.propose(31, {}, "a"))
    assert any(isinstance(e, SlowLimits) for e in state.propose(60, {}, "a"))


def test_what_cannot_be_read_is_passed_over():
    for value in (None, b"", b"\xff\x00", b"{}", encode_event(Table(1)) + b"x"):
        assert decode_event(value) is None


def test_buckets_are_of_the_traces_own_time():
    one = assembled(
        spans=[
            span(1, end_ns=0, start_ns=7 * BUCKET_MS * 10**6),
            span(2, parent=1, start_ns=3, end_ns=5),
        ]
    )
    assert bucket_of(Traits(one).moment_ms) == 7
