"""What a seed means: the workers' settings, the faults and when they come. All drawn before the run."""

from random import Random
from typing import Any, NamedTuple

from spanferry_worker.settings import (
    AssembleSettings,
    CommitSettings,
    ConsumeSettings,
    DeadLetterSettings,
    KafkaSettings,
    ProcessSettings,
    SampleSettings,
    Settings,
)
from spanferry_worker.stages.decode import ChunkPolicy
from spanferry_worker.stages.sample import Action, Otherwise, Rule
from spanferry_worker.stages.write import RetryPolicy, WritePolicy

__all__ = [
    "INCIDENTS",
    "POINTS",
    "WORK_S",
    "Incident",
    "Plan",
    "is_orderly",
    "is_steady",
    "make_plan",
]

WORK_S = 2.0
"""Apps send, and most faults come, within so many seconds."""
_LONG_S = 7.0
"""A store that is away for longer than intake waits without pausing its client."""

INCIDENTS = (
    "crash",
    "stop",
    "join",
    "freeze",
    "freeze_long",
    "rebalance",
    "expel",
    "store_away",
    "store_slow",
    "letters_away",
    "broker_away",
)
"""What happens to somebody at some time."""

POINTS = (
    "commit.asked",
    "commit.answered",
    "join.answered",
    "committed.answered",
    "write.asked",
    "write.answered",
    "letters.asked",
    "letters.answered",
    "ledger.asked",
    "ledger.answered",
    "read.asked",
    "poll.asked",
)
"""Calls of the outside in which a worker may die: before it has its effect, or after."""

_SAMPLING_POINTS = ("dropped.asked", "dropped.answered", "marks.answered")
"""The same, of calls that sampling alone makes."""


class Incident(NamedTuple):
    """One fault: when, what, for how long, and a number that chooses whom it hits."""

    at_s: float
    kind: str
    lasts_s: float
    whom: int


class Plan(NamedTuple):
    """One seed, spelt out."""

    seed: int
    settings: Settings
    partitions: int
    workers: int
    record_bytes_max: int
    traces: int
    concurrency: int
    incidents: list[Incident]
    faults_s: float
    """After so long all is well, and everything must come to an end."""
    deaths: dict[str, int]
    """Points of calls, each with how many such calls go well before one dies in it."""
    pauses: dict[str, int]
    """... in which one stands still for longer than its session lasts, and then goes on."""
    failing: float
    """Probability that a call of the outside fails for a while."""
    lost_answers: float
    """... that the store has stored and the answer is lost."""
    broken_off: float
    """... that it has stored only the first part of a batch."""
    jumps: bool
    """Whether clocks are wrong and jump."""


def make_plan(seed: int) -> Plan:
    """The same for ever for a seed, as long as this file does not change."""
    chance = Random(f"plan {seed}")
    calm = chance.random() < 0.1
    kinds = chance.sample(INCIDENTS, chance.randint(1, 4))
    count = 0 if calm else chance.randint(0, 5)
    incidents = sorted(
        Incident(chance.uniform(0.0, WORK_S + 0.5), chance.choice(kinds), _lasts_s(chance), n)
        for n in range(count)
    )
    long = chance.random() < 0.03
    if long:
        incidents.append(Incident(WORK_S + 0.5, "store_away", _LONG_S, 0))
    deaths = {
        point: chance.randint(0, 12)
        for point in chance.sample(POINTS, 0 if calm else chance.choice((0, 0, 1, 2)))
    }
    if not calm:
        sampling = Random(f"sampling {seed}")
        if sampling.random() < 0.2:
            deaths[sampling.choice(_SAMPLING_POINTS)] = sampling.randint(0, 6)
    pauses: dict[str, int] = {}
    if not calm and chance.random() < 0.5:
        # A commit of one who has been out of the group for long is the most dangerous.
        pauses[chance.choice(("commit.asked", *POINTS))] = chance.randint(0, 8)
    tight = chance.random() < 0.3
    trouble = 0.0 if calm else chance.choice((0.0, 0.02, 0.1))
    return Plan(
        seed=seed,
        settings=_settings(chance, seed, tight=tight),
        partitions=chance.choice((1, 2, 3, 5)),
        workers=chance.choice((1, 1, 2, 3)),
        record_bytes_max=chance.choice((260, 400, 900_000)),
        traces=chance.randint(12, 20) if tight else chance.randint(4, 12),
        concurrency=chance.choice((1, 2, 4)),
        incidents=incidents,
        faults_s=WORK_S + 0.5 + (_LONG_S if long else 0.0),
        deaths=deaths,
        pauses=pauses,
        failing=trouble,
        lost_answers=trouble,
        broken_off=trouble,
        jumps=chance.random() < 0.3,
    )


def is_orderly(plan: Plan) -> bool:
    """Whether no worker can be writing still when another one has its partitions already.

    Such a straggler changes nothing but what is said of a trace more than once: that goes back to what
    it was when the straggler began.
    """
    stragglers = {"freeze", "freeze_long", "expel", "store_slow"}
    return not plan.pauses and not any(one.kind in stragglers for one in plan.incidents)


def is_steady(plan: Plan) -> bool:
    """Whether one worker has all partitions from the beginning to the end."""
    harmless = {"store_away", "store_slow", "letters_away"}
    moved = plan.deaths or plan.pauses or any(one.kind not in harmless for one in plan.incidents)
    return plan.workers == 1 and not plan.failing and not moved


def _lasts_s(chance: Random) -> float:
    return chance.choice((0.05, 0.3, 1.0)) * chance.uniform(0.5, 1.5)


def _policy(seed: int, chance: Random) -> SampleSettings:
    """Everything whole, big payloads cut, or some traces dropped."""
    target_bytes = chance.choice((0, 600))
    drops = Random(f"drops {seed}")
    if drops.random() < 0.6:
        return SampleSettings(target_bytes=target_bytes, attribute_bytes_max=64)
    rules = [
        Rule(name="judged", feedback=True, action=Action.KEEP),
        Rule(name="single", spans_max=drops.choice((0, 1)), action=Action.DROP),
        Rule(name="big", bytes_min=400, action=Action.SKELETON),
        Rule(name="rest", action=Action.PROBABILITY, probability=0.6, otherwise=Otherwise.DROP),
    ]
    return SampleSettings(rules=rules, attribute_bytes_max=64)


def _settings(chance: Random, seed: int, *, tight: bool) -> Settings:
    """Short times, so that a run is over within seconds; limits that are met."""
    giants = Random(f"giants {seed}")
    held_bytes_max = chance.choice((25_000, 50_000)) if tight else 10_000_000
    waiting_bytes_max = held_bytes_max // 2
    values: dict[str, Any] = {
        "kafka": KafkaSettings(
            session_timeout_s=0.9, heartbeat_s=0.2, rebalance_timeout_s=1.0, topic="traces"
        ),
        "consume": ConsumeSettings(
            held_bytes_max=held_bytes_max,
            poll_bytes_max=500 if tight else chance.choice((500, 1_000_000)),
            poll_records_max=chance.choice((1, 4, 500)),
            revoke_flush_s=chance.choice((0.1, 0.5)),
            stall_s=2.0,
        ),
        "decode": ChunkPolicy(
            chunk_bytes_max=min(chance.choice((30_000, 1_000_000)), waiting_bytes_max),
            chunk_age_s=1.0,
        ),
        "assemble": AssembleSettings(
            idle_s=0.4,
            age_s=chance.choice((0.5, 1.2)),
            late_grace_s=0.1,
            feedback_grace_s=0.15,
            bytes_max=min(chance.choice((15_000, 1_000_000)), waiting_bytes_max),
            giant_bytes=giants.choice((2_000, 4_000, 1_000_000)),
            giant_attribute_bytes_max=giants.choice((64, 300)),
            released_traces_max=chance.choice((0, 3, 1_000)),
            write_open_at_stop=chance.random() < 0.5,
        ),
        "sample": _policy(seed, chance),
        "write": WritePolicy(
            batch_traces_max=chance.choice((1, 3, 50)),
            batch_bytes_max=chance.choice((10_000, 1_000_000)),
            linger_s=chance.choice((0.0, 0.05)),
            absent_s=chance.choice((0.0, 1.0)),
            absent_retry_s=0.15,
            absent_max=chance.choice((1, 100)),
        ),
        "retry": RetryPolicy(retry_initial_s=0.05, retry_max_s=0.3),
        "commit": CommitSettings(interval_s=chance.choice((0.05, 0.4))),
        "dead_letters": DeadLetterSettings(ratio_max=1.0),
        "process": ProcessSettings(stop_s=chance.choice((0.3, 2.0))),
    }
    return Settings(**values)
