"""What a run of `benchmarks.stores` has measured."""

import msgspec

from benchmarks.machine import Conditions

__all__ = ["EndToEnd", "Result", "Row"]


class Row(msgspec.Struct, frozen=True):
    """One way, one kind of trace, one size of batch."""

    store: str
    way: str
    payload: str
    batch: int
    traces: int
    """A round."""
    per_second: list[float]
    """Each round's."""
    of_raw: list[float]
    """The same by raw's in that round."""
    cpu_ms: float
    """Of the writing process, for a trace."""


class EndToEnd(msgspec.Struct, frozen=True):
    """A worker that finds all traces in Kafka."""

    processes: int
    traces: int
    stored: int
    per_second: float
    """Between a tenth and the last of them."""


class Result(msgspec.Struct):
    """Of one run."""

    conditions: Conditions
    quick: bool
    rows: list[Row] = []
    end_to_end: list[EndToEnd] = []
