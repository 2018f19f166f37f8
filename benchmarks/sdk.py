"""What the harness and the adapters agree on."""

from typing import Any, Protocol

import msgspec

from benchmarks.recorders import Recorder

__all__ = ["EXPERIMENT", "Addresses", "Sdk", "enable_spanferry"]

EXPERIMENT = "bench"


class Addresses(msgspec.Struct):
    """Where the back ends are: Kafka's bootstrap servers, base URLs of the stub and of MLflow's server."""

    kafka: str
    topic: str
    stub: str
    server: str = ""
    """Empty where no tier of the run stores into a real one."""


class Sdk(Protocol):
    """One way to trace, from setting it up to emptying it."""

    def start(self, addresses: Addresses) -> dict[str, Recorder]:
        """Set the SDK up; recorders by style: with, decorated, tree, async."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything made so far has left the process; False where that failed."""
        ...

    def counters(self) -> dict[str, Any]:
        """What the SDK itself counts; empty where it counts nothing."""
        ...


def enable_spanferry(addresses: Addresses, **options: Any) -> Any:
    """spanferry, enabled, sending to the run's topic."""
    import spanferry

    spanferry.enable(
        bootstrap_servers=addresses.kafka, experiment=EXPERIMENT, topic=addresses.topic, **options
    )
    return spanferry
