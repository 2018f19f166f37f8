"""What a run of `benchmarks.stages` has measured."""

import msgspec

from benchmarks.machine import Conditions

__all__ = ["Result", "Row"]


class Row(msgspec.Struct, frozen=True):
    """One source, one size of traces, one number of processes."""

    source: str
    """`memory`: the stages alone; `kafka`: the worker's runtime."""
    payload: str
    processes: int
    traces: int
    """A round, of all processes together."""
    spans: int
    """A trace."""
    value_bytes: float
    """A trace's record value, before Kafka compresses it."""
    per_second: list[float]
    """Traces a second of all processes together, each round's."""
    of_one: list[float]
    """Each round's, by what one process took in the same round."""
    cpu_us: float
    """CPU microseconds of the workers a trace, the median of the rounds."""


class Result(msgspec.Struct):
    """All of a run."""

    conditions: Conditions
    quick: bool
    rows: list[Row] = []
