"""What is served side by side: apps, load, and the state in which Kafka is."""

from typing import Any

import msgspec

__all__ = [
    "CALLING",
    "CASES",
    "CLOSED",
    "DEAD",
    "FLASK_CALLING",
    "FLASK_CLOSED",
    "FLASK_DEAD",
    "FLASK_OPEN",
    "FLASK_SLOW",
    "IMPORTED",
    "LIGHT",
    "OPEN",
    "SLOW",
    "STATES",
    "Case",
    "Kafka",
]

EVERY = ("untraced", "spanferry", "bridge", "bridge-plain", "otel", "mlflow")
OWN = ("untraced", "spanferry", "bridge")
IMPORTED = "untraced-mlflow"
"""Where throughput is compared: an app that uses MLflow's API has imported it, traced or not."""
CONNECTIONS = 32


class Kafka:
    """How Kafka is while a block runs."""

    HEALTHY = "healthy"
    SLOW = "slow"
    """Stopped (SIGSTOP) for 0.9 s of every second: whatever it is sent waits, connections stay."""
    DEAD = "dead"
    """Shut down: connections are refused."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One app under one load with Kafka in one state, and the tiers that meet it."""

    server: str
    """fastapi or flask; with -httpx the app calls the model over HTTP."""
    rate: float = 0.0
    """Requests a second; 0: as many as `connections` of them at a time make it."""
    connections: int = CONNECTIONS
    kafka: str = Kafka.HEALTHY
    tiers: tuple[str, ...] = EVERY
    rounds: int = 5
    """In how many of a run's rounds."""
    seconds: float = 7.0
    quick: tuple[str, ...] = ()
    """The tiers of a quick run; none: it does not have the case."""

    @property
    def name(self) -> str:
        """As results and options call it."""
        return f"{self.server}/{self.load}/{self.kafka}"

    @property
    def load(self) -> str:
        """Closed or the rate."""
        return f"{self.rate:g}/s" if self.rate else f"{self.connections} connections"


_OPEN = {"rate": 150.0, "connections": 256}

_CLOSED: dict[str, Any] = {"rounds": 10, "seconds": 3.0}

CLOSED = Case(server="fastapi", **_CLOSED, tiers=(*EVERY, IMPORTED), quick=EVERY)
_CALLING: dict[str, Any] = _CLOSED | {"tiers": (*OWN, "otel", "mlflow", IMPORTED), "quick": OWN}
CALLING = Case(server="fastapi-httpx", **_CALLING)
FLASK_CALLING = Case(server="flask-httpx", **_CALLING)
OPEN = Case(server="fastapi", **_OPEN, quick=(*OWN, "otel"))
LIGHT = Case(server="fastapi", rate=40.0, connections=256, rounds=4)
FLASK_CLOSED = Case(
    server="flask",
    seconds=5.0,
    rounds=3,
    tiers=(*EVERY, IMPORTED),
    quick=("untraced", "spanferry", "mlflow"),
)
_FLASK_OPEN: dict[str, Any] = {"rate": 100.0, "connections": 256, "rounds": 3}
FLASK_OPEN = Case(server="flask", **_FLASK_OPEN)
FLASK_SLOW = Case(server="flask", **_FLASK_OPEN, kafka=Kafka.SLOW, tiers=OWN)
FLASK_DEAD = Case(server="flask", **_FLASK_OPEN, kafka=Kafka.DEAD, tiers=OWN)
SLOW = Case(server="fastapi", **_OPEN, kafka=Kafka.SLOW, tiers=OWN, quick=OWN)
DEAD = Case(server="fastapi", **_OPEN, kafka=Kafka.DEAD, tiers=OWN, quick=OWN)

STATES = ((OPEN, SLOW, DEAD), (FLASK_OPEN, FLASK_SLOW, FLASK_DEAD))
"""The same load with Kafka healthy, slow and dead, for each app."""

CASES = (CALLING, FLASK_CALLING, CLOSED, LIGHT, FLASK_CLOSED, *STATES[1], *STATES[0])
"""In the order of a round: the three states of Kafka meet the same load right after one another."""
