"""What a run of `benchmarks.stores` has measured."""

import msgspec

from benchmarks.machine import Conditions

__all__ = ["EndToEnd", "Fill", "Result", "Row"]


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
    """Of the writing process, for a trace. SQLite is in it."""
    database_cpu_ms: float | None = None
    """Of the database with its background processes, for a trace; None where it has no process."""
    server_cpu_ms: float | None = None
    """Of `mlflow server`, for a trace; None for a way without it."""
    trace_bytes: int = 0
    """Inputs and outputs of a trace."""
    stored: int = 0
    """Traces that were in the tables before."""
    settings: str = ""
    """Of the database; empty: its defaults."""
    beside_full: bool = False
    """Whether empty tables and full ones had their turns in the same rounds."""
    of_empty: list[float] = []
    """Each round's rate by that of the same way, in that round, into tables that were empty before."""
    pages: dict[str, float] = {}
    """PostgreSQL only: what its counters say of a trace."""


class Fill(msgspec.Struct, frozen=True):
    """Tables filled before anything was measured."""

    store: str
    traces: int
    seconds: float
    megabytes: dict[str, float]
    """By table, its indexes as `… indexes`."""


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
    fills: list[Fill] = []
    seconds: float = 0.0
    """What the whole run took."""
