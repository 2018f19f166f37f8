"""What happens to whom, and when: it follows from a seed. Pure."""

import random
from enum import StrEnum
from typing import Final

from msgspec import Struct

__all__ = ["Fault", "Kind", "Plan", "Subject", "schedule"]


class Subject(StrEnum):
    """Who suffers. Of each only one thing happens at a time, and the next one when that is healed."""

    KAFKA = "kafka"
    """All brokers together: with two of three in sync a second one must not go before the first is back."""
    POSTGRES = "postgres"
    WORKER = "worker"
    WORKERS = "workers"
    """All of them, one after another."""
    PRODUCER = "producer"
    DISK = "disk"
    """Of the producer whose spool is on a small one."""


class Kind(StrEnum):
    """What happens."""

    WORKER_KILLED = "worker: kill -9"
    BROKER_KILLED = "broker: kill -9"
    POSTGRES_KILLED = "PostgreSQL: kill -9"
    PARTITIONS_GROWN = "topic: more partitions"
    DISK_FULL = "spool: disk full"
    PRODUCER_KILLED = "producer: kill -9"
    KAFKA_FROZEN = "Kafka: SIGSTOP of all brokers"
    WORKER_FROZEN = "worker: SIGSTOP"
    BROKER_FROZEN = "broker: SIGSTOP"
    POSTGRES_FROZEN = "PostgreSQL: SIGSTOP"
    PRODUCER_FROZEN = "producer: SIGSTOP"
    WORKERS_RESTARTED = "workers: rolling restart"
    BROKER_RESTARTED = "broker: restart"
    POSTGRES_STOPPED = "PostgreSQL: immediate stop"


HARD: Final = tuple(Kind)[:7]
"""These come first, so that a short run has them."""

SUBJECTS: Final = {
    Kind.WORKER_KILLED: Subject.WORKER,
    Kind.WORKER_FROZEN: Subject.WORKER,
    Kind.WORKERS_RESTARTED: Subject.WORKERS,
    Kind.BROKER_KILLED: Subject.KAFKA,
    Kind.BROKER_FROZEN: Subject.KAFKA,
    Kind.BROKER_RESTARTED: Subject.KAFKA,
    Kind.KAFKA_FROZEN: Subject.KAFKA,
    Kind.PARTITIONS_GROWN: Subject.KAFKA,
    Kind.POSTGRES_KILLED: Subject.POSTGRES,
    Kind.POSTGRES_STOPPED: Subject.POSTGRES,
    Kind.POSTGRES_FROZEN: Subject.POSTGRES,
    Kind.PRODUCER_KILLED: Subject.PRODUCER,
    Kind.PRODUCER_FROZEN: Subject.PRODUCER,
    Kind.DISK_FULL: Subject.DISK,
}

HOLDS_S: Final = {
    Kind.WORKER_KILLED: (1.0, 8.0),
    Kind.WORKER_FROZEN: (8.0, 14.0),  # a session lasts 6
    Kind.WORKERS_RESTARTED: (0.0, 0.0),
    Kind.BROKER_KILLED: (1.0, 8.0),
    Kind.BROKER_FROZEN: (5.0, 12.0),  # the controller waits for 3
    Kind.BROKER_RESTARTED: (0.0, 2.0),
    Kind.KAFKA_FROZEN: (4.0, 8.0),  # longer than a small buffer lasts
    Kind.PARTITIONS_GROWN: (0.0, 0.0),
    Kind.POSTGRES_KILLED: (0.5, 6.0),
    Kind.POSTGRES_STOPPED: (0.5, 6.0),
    Kind.POSTGRES_FROZEN: (4.0, 15.0),
    Kind.PRODUCER_KILLED: (0.2, 3.0),
    Kind.PRODUCER_FROZEN: (4.0, 12.0),
    Kind.DISK_FULL: (4.0, 12.0),
}
"""For so long it lasts, drawn evenly; then it is undone."""


class Plan(Struct, frozen=True, kw_only=True):
    """A run."""

    traces: int = 50_000
    """At least so many are made."""
    faults: int = 24
    seed: int = 1
    seconds: float = 420.0
    """Over which faults and traces are spread."""
    producers: int = 4
    workers: int = 3
    partitions: int = 6
    hold_max_s: float = 60.0
    """No fault lasts longer."""
    left_out: frozenset[Kind] = frozenset()
    """What cannot be done here."""
    all_outcomes: bool = False
    """Whether records end in every way there is: beside the others somebody writes junk, an app without
    spool has a small buffer, and a rule drops some traces."""

    @property
    def junk(self) -> int:
        """Records that nobody can read: so many at least."""
        return max(10, self.traces // 500) if self.all_outcomes else 0


class Fault(Struct, frozen=True):
    """One thing that happens."""

    number: int
    kind: Kind
    at_s: float
    """After the first trace; later where the subject is still busy with what came before."""
    target: int
    """Which of the brokers, workers or producers."""
    hold_s: float

    @property
    def subject(self) -> Subject:
        """Who suffers."""
        return SUBJECTS[self.kind]


def schedule(plan: Plan) -> list[Fault]:
    """The faults in their order: the hard ones, then the others, then again, each time shuffled."""
    chance = random.Random(plan.seed)
    kinds: list[Kind] = []
    hard = True
    while len(kinds) < plan.faults:
        deck = [one for one in Kind if (one in HARD) is hard and one not in plan.left_out]
        hard = not hard
        chance.shuffle(deck)
        kinds += deck
    # The first tenth and the last are for what comes before and after.
    step_s = plan.seconds * 0.8 / max(1, plan.faults)
    return [
        _fault(plan, number, kind, step_s, chance)
        for number, kind in enumerate(kinds[: plan.faults])
    ]


def _fault(plan: Plan, number: int, kind: Kind, step_s: float, chance: random.Random) -> Fault:
    at_s = plan.seconds * 0.1 + step_s * (number + chance.uniform(0, 0.8))
    hold_s = min(chance.uniform(*HOLDS_S[kind]), plan.hold_max_s)
    return Fault(number + 1, kind, round(at_s, 1), _target(plan, kind, chance), round(hold_s, 1))


def _target(plan: Plan, kind: Kind, chance: random.Random) -> int:
    """Producer 0 has the small disk, which would go with it: it is not killed."""
    match SUBJECTS[kind]:
        case Subject.WORKER:
            return chance.randrange(plan.workers)
        case Subject.KAFKA:
            return chance.randrange(3)
        case Subject.PRODUCER:
            return chance.randrange(1, plan.producers)
    return 0
