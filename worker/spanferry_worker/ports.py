"""What the runtime needs of the outside, as protocols with more than one implementation each."""

from collections.abc import Sequence
from typing import Protocol

from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["Sink"]


class Sink(Protocol):
    """Where traces are stored: MLflow's SQL store, its HTTP API, or a test's memory.

    One task calls it, `write` may be called again only after it returned unless `concurrency` > 1.
    """

    @property
    def concurrency(self) -> int:
        """How many `write` calls may run at once (1 for SQLite)."""
        ...

    async def open(self) -> None:
        """Connect and check versions. Raises TransientError (try again) or FatalError (never)."""
        ...

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        """Store every trace of the batch, durably and idempotently: a repeat changes nothing.

        A trace that is already stored is merged with what comes (spans by span id, tags and
        metadata over the old ones, assessments by assessment id). After a return all of the batch
        is durable. Raises TransientError: retry the same batch. Raises PoisonError: at least one
        trace can never be stored; the caller bisects, so a batch of one names the culprit.
        """
        ...

    async def close(self) -> None:
        """Release connections. Never raises."""
        ...
