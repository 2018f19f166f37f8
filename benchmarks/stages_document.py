"""Writes docs/benchmarks-stages.md: `python -m benchmarks.stages_document`.

A test fails while it is not what the published results say.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.machine import in_words
from benchmarks.stages_report import Result, Row

__all__ = ["PAGE", "RESULTS", "TWO_PROCESSES", "document"]

TWO_PROCESSES = 1.8
"""What two processes should take of one, at least."""

RESULTS = Path(__file__).parent / "results" / "stages.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-stages.md"

HEAD = """\
# Benchmarks: the worker's stages

Made from [stages.json](../benchmarks/results/stages.json) by `python -m benchmarks.stages_document`. What a
worker does with traces before MLflow: decode, assemble, sample, queue, commit, with a store that takes
everything at once. What the store itself takes is on [its own page](benchmarks-stores.md).

"""

TITLES = {
    "memory": "The stages alone, from memory",
    "kafka": "The worker's runtime, from Kafka",
}

PEERS = """
## Beside what others publish

| who | spans/s a core | where |
|---|---|---|
{own}| OpenTelemetry collector, tail sampling | 9,000 | its `docs/performance.md`, of 2019 (12,000 without) |
| Splunk's distribution of it | 15,000 | help.splunk.com, sizing and scaling |

Their figures are of other machines and of spans of other sizes, and they export what is only counted here:
they show the order of magnitude, no more.
"""

SHORT = {
    "memory": "",
    "kafka": "The broker has no\ncore of its own, and sends {rate:,.0f} MB/s of records meanwhile (before "
    "compression).",
}

METHOD = """
## How it is measured

- A trace has five spans and is one record, as an app sends it; its size is that of its inputs and outputs,
  MB/s are of record values before compression. Settings are the defaults.
- From memory: records that lie in the process go through the stages, the write queue and the watermarks,
  without an event loop.
- From Kafka: the runtime itself with aiokafka on uvloop reads compressed (zstd) batches from a broker on the
  same machine, and commits. Counted between the first tenth and the last; the broker has no core of its own.
- Every process is bound to a core. One process and two take turns in a round; figures are medians of the
  rounds, in brackets the lowest and the highest, and a ratio is that of one round.

```sh
.venv/bin/python -m benchmarks.stages
.venv/bin/python -m benchmarks.stages_document
```
"""


def document(result: Result) -> str:
    """The page."""
    where = result.conditions
    parts = [HEAD, f"{in_words(where)}; {where.at}; load {where.load_1m} before.\n"]
    if result.quick:
        parts.append("\n> A short run, to show the form of this page; do not quote it.\n")
    for source in dict.fromkeys(row.source for row in result.rows):
        rows = [row for row in result.rows if row.source == source]
        parts += [f"\n## {TITLES[source]}\n\n", *_table(rows), *_short(rows)]
    parts.append(PEERS.format(own="".join(_own(result.rows))))
    return "".join([*parts, METHOD])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| traces | processes | traces/s (rounds) | spans/s | MB/s | CPU us a trace | of one process |\n"
    yield "|---|---|---|---|---|---|---|\n"
    for row in rows:
        rate = statistics.median(row.per_second)
        yield (
            f"| {row.payload} | {row.processes} | {_spread(row.per_second, ',.0f')} | "
            f"{rate * row.spans:,.0f} | {rate * row.value_bytes / 1e6:,.0f} | {row.cpu_us:.1f} | "
            f"{'-' if row.processes == 1 else _spread(row.of_one, '.2f')} |\n"
        )


def _short(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for what does not come to what two processes should take."""
    for row in rows:
        ratio = statistics.median(row.of_one)
        if row.processes == 2 and ratio < TWO_PROCESSES:
            rate = statistics.median(row.per_second) * row.value_bytes / 1e6
            yield (
                f"\nOf {row.payload} two processes take {ratio:.2f} times what one takes, which is less than "
                f"{TWO_PROCESSES}. {SHORT[row.source].format(rate=rate)}\n"
            )


def _own(rows: Sequence[Row]) -> Iterator[str]:
    names = {"memory": "spanferry's stages", "kafka": "spanferry's runtime, from Kafka"}
    for row in rows:
        if (row.payload, row.processes) == ("10 KB", 1):
            rate = statistics.median(row.per_second) * row.spans
            yield f"| {names[row.source]}, 10 KB a trace | {rate:,.0f} | this page |\n"


def _spread(figures: Sequence[float], form: str) -> str:
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


if __name__ == "__main__":
    PAGE.write_text(document(msgspec.json.decode(RESULTS.read_bytes(), type=Result)))
    print(PAGE)
