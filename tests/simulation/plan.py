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
    Settings,
)
from spanferry_worker.stages.decode import ChunkPolicy
from spanferry_worker.stages.sample import SamplingPolicy
from spanferry_worker.stages.write import RetryPolicy, WritePolicy

__all__ = ["FAULTS_S", "INCIDENTS", "POINTS", "Incident", "Plan", "make_plan"]

FAULTS_S = 2.5
"""Faults come within so many seconds; then all is well again, and everything must come to an end."""

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
    "read.asked",
    "poll.asked",
)
"""Calls of the outside in which a worker may die: before it has its effect, or after."""


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
    deaths: dict[str, int]
    """Points of calls, each with how many such calls go well before one dies in it."""
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
        Incident(chance.uniform(0.0, FAULTS_S), chance.choice(kinds), _lasts_s(chance), n)
        for n in range(count)
    )
    deaths = {
        point: chance.randint(0, 12)
        for point in chance.sample(POINTS, 0 if calm else chance.choice((0, 0, 1, 2)))
    }
    trouble = 0.0 if calm else chance.choice((0.0, 0.02, 0.1))
    return Plan(
        seed=seed,
        settings=_settings(chance),
        partitions=chance.choice((1, 2, 3, 5)),
        workers=chance.choice((1, 1, 2, 3)),
        record_bytes_max=chance.choice((260, 400, 900_000)),
        traces=chance.randint(4, 12),
        concurrency=chance.choice((1, 2, 4)),
        incidents=incidents,
        deaths=deaths,
        failing=trouble,
        lost_answers=trouble,
        broken_off=trouble,
        jumps=chance.random() < 0.3,
    )


def _lasts_s(chance: Random) -> float:
    return chance.choice((0.05, 0.3, 1.0)) * chance.uniform(0.5, 1.5)


def _settings(chance: Random) -> Settings:
    """Short times, so that a run is over within seconds; limits that are met."""
    tight = chance.random() < 0.3
    held_bytes_max = chance.choice((4_000, 8_000)) if tight else 10_000_000
    waiting_bytes_max = held_bytes_max // 2
    values: dict[str, Any] = {
        "kafka": KafkaSettings(
            session_timeout_s=0.9, heartbeat_s=0.2, rebalance_timeout_s=1.0, topic="traces"
        ),
        "consume": ConsumeSettings(
            held_bytes_max=held_bytes_max,
            poll_bytes_max=min(chance.choice((500, 1_000_000)), held_bytes_max),
            poll_records_max=chance.choice((1, 4, 500)),
            revoke_flush_s=chance.choice((0.1, 0.5)),
            stall_s=2.0,
        ),
        "decode": ChunkPolicy(
            chunk_bytes_max=min(chance.choice((3_000, 1_000_000)), waiting_bytes_max),
            chunk_age_s=1.0,
        ),
        "assemble": AssembleSettings(
            idle_s=0.4,
            age_s=chance.choice((0.5, 1.2)),
            late_grace_s=0.1,
            feedback_grace_s=0.15,
            bytes_max=min(chance.choice((1_500, 1_000_000)), waiting_bytes_max),
            released_traces_max=chance.choice((0, 3, 1_000)),
            write_open_at_stop=chance.random() < 0.2,
        ),
        "sample": SamplingPolicy(
            full_bytes_max=chance.choice((None, 600)), attribute_bytes_max=64
        ),
        "write": WritePolicy(
            batch_traces_max=chance.choice((1, 3, 50)),
            batch_bytes_max=chance.choice((1_000, 1_000_000)),
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
