"""What a run of `benchmarks.neighbours` has measured, and its section of docs/benchmarks.md."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import msgspec

from benchmarks.machine import Conditions, in_words, when
from benchmarks.report import Figure, figure, percentile
from benchmarks.tables import number, spread, table

__all__ = ["RESULTS", "WAYS", "Report", "Row", "Seen", "make_rows", "read", "section"]

RESULTS = Path(__file__).parent / "results" / "neighbours.json"

ALONE = "alone"
WAYS = {
    ALONE: "no giant",
    "json": "the app calls json.dumps with the giant's values",
    "spanferry": "spanferry API",
    "bridge": "MLflow API on spanferry",
}
"""What the giant's thread does, in the order of the table."""

RECORDED, SENT = "recorded", "sent"
PHASES = {RECORDED: "while it is recorded", SENT: "while it is sent"}

HEAD = """\
## A giant's neighbours

{threads} threads record 10 KB traces, {rate:g} a second together, while another thread records one of 10 MB
or of 100 MB, of which the longest values have nearly half. "Inside" is what the neighbours' tracing calls
take, "late" is how long after its time a trace could begin: that is the wait for the interpreter, which
whoever holds it costs every other thread of a Python process, traced or not, and for a core. Milliseconds;
p99 is the median of the rounds, in brackets the lowest and the highest; max is that of all rounds.

"""

TAIL = """
The app's own work on such values holds the interpreter as well: the line with json.dumps is one call that an
app makes to answer, cache or log them. Where spans of a name were above {giant_mb:g} MB before, values are
written in pieces, and whoever waits has his turn after each; the first one of its name goes in one call for
each value. {buffer}Kafka is a real one
with acks=all, on the same cores. What was imported is kept from the garbage collector (`gc.freeze`): a full
collection of MLflow's objects holds all threads up for 100 ms and more, whatever is recorded.
`python -m benchmarks.neighbours`

Measured {at}: {where}.

"""


class Seen(msgspec.Struct, kw_only=True):
    """One way in one round: what the neighbours' clocks have shown. Microseconds."""

    way: str
    megabytes: int
    round: int
    inside_us: dict[str, list[float]]
    """By phase."""
    late_us: dict[str, list[float]]
    record_ms: list[float] = []
    """How long the giant's own thread was in tracing calls, or in what stands for them."""
    send_ms: list[float] = []
    """From then until the buffer was empty."""


class Row(msgspec.Struct, kw_only=True):
    """One way and phase, over all rounds. Milliseconds."""

    way: str
    megabytes: int
    phase: str
    samples: int
    inside_p50: float
    inside_p99: Figure
    inside_max: float
    late_p50: float
    late_p99: Figure
    late_max: float
    giants: int
    giant_p50: float
    """Of the phase's own length."""


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    conditions: Conditions
    quick: bool
    threads: int
    rate: float
    buffer_bytes: int
    giant_bytes: int
    """Above which a span's name is remembered."""
    rows: list[Row]

    def row(self, way: str, megabytes: int, phase: str) -> Row | None:
        """What was found there."""
        return next(
            (
                row
                for row in self.rows
                if (row.way, row.megabytes, row.phase) == (way, megabytes, phase)
            ),
            None,
        )


def make_rows(seen: Sequence[Seen]) -> list[Row]:
    """A row for every way, size and phase of which there are samples."""
    rows: list[Row] = []
    for megabytes in dict.fromkeys(one.megabytes for one in seen):
        for way in WAYS:
            blocks = [one for one in seen if (one.way, one.megabytes) == (way, megabytes)]
            rows += [
                row for phase in PHASES if (row := _row(way, megabytes, phase, blocks)) is not None
            ]
    return rows


def _row(way: str, megabytes: int, phase: str, blocks: list[Seen]) -> Row | None:
    inside = [sorted(one.inside_us[phase]) for one in blocks if one.inside_us[phase]]
    late = [sorted(one.late_us[phase]) for one in blocks if one.late_us[phase]]
    if not inside:
        return None
    lengths = [ms for one in blocks for ms in (one.record_ms if phase == RECORDED else one.send_ms)]
    all_inside, all_late = sorted(chain(*inside)), sorted(chain(*late))
    return Row(
        way=way,
        megabytes=megabytes,
        phase=phase,
        samples=len(all_inside),
        inside_p50=_ms(percentile(all_inside, 0.5)),
        inside_p99=figure([_ms(percentile(one, 0.99)) for one in inside]),
        inside_max=_ms(all_inside[-1]),
        late_p50=_ms(percentile(all_late, 0.5)),
        late_p99=figure([_ms(percentile(one, 0.99)) for one in late]),
        late_max=_ms(all_late[-1]),
        giants=len(lengths),
        giant_p50=_significant(percentile(sorted(lengths), 0.5)) if lengths else 0.0,
    )


def read(path: Path = RESULTS) -> Report | None:
    """The published results, where there are any."""
    return msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else None


def section(report: Report) -> str:
    """The part of docs/benchmarks.md."""
    columns = (
        "the giant's thread", "phase", "inside p50", "inside p99 (rounds)", "inside max", "late p50",
        "late p99 (rounds)", "late max", "samples", "the phase takes",
    )  # fmt: skip
    parts = [HEAD.format(threads=report.threads, rate=report.rate)]
    for megabytes in dict.fromkeys(row.megabytes for row in report.rows):
        lines = [_line(row) for row in report.rows if row.megabytes == megabytes]
        parts.append(f"### Beside {megabytes} MB\n\n{table(columns, lines)}\n\n")
    where = report.conditions
    parts.append(
        TAIL.lstrip("\n").format(
            giant_mb=report.giant_bytes / 2**20,
            buffer=f"The buffer is of {report.buffer_bytes / 2**20:g} MB: with the default of 64 a payload "
            "above 32 MB is cut. ",
            at=when(where),
            where=in_words(where),
        )
    )
    return "".join(parts)


def _line(row: Row) -> list[str]:
    alone = row.way == ALONE
    return [
        WAYS[row.way],
        "-" if alone else PHASES[row.phase],
        number(row.inside_p50),
        spread(row.inside_p99),
        number(row.inside_max),
        number(row.late_p50),
        spread(row.late_p99),
        number(row.late_max),
        f"{row.samples:,}",
        "-" if alone else f"{number(row.giant_p50)} ms",
    ]


def _ms(microseconds: float) -> float:
    return _significant(microseconds / 1000)


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
