"""Writes docs/benchmarks.md: `python -m benchmarks.document benchmarks/results/overhead.json`.

A test fails while it is not what the published results say.
"""

import os
import sys
from pathlib import Path

import msgspec

from benchmarks import guard, neighbours_report
from benchmarks.cases import MAIN
from benchmarks.plots import pictures
from benchmarks.report import Report
from benchmarks.tables import (
    conditions_line,
    encode_table,
    lag_table,
    main_table,
    measured_series,
    missing_line,
    series_table,
    summary_table,
    verdict_table,
)

__all__ = ["PAGE", "document", "write"]

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

HEAD = """\
# Benchmarks

Made from [{name}]({source}) by `python -m benchmarks.document`. Milliseconds of the calling
thread inside tracing calls, for one trace, unless a heading says otherwise.
"""

QUICK = """
> These figures are from a short run on a busy machine. They show the form of this page; do not quote them.
"""

METHOD = """\
## How it is measured

- Every way to trace lives in a process of its own. They take turns in short blocks, in an order that
  rotates; while one runs, the others have flushed and are at rest.
- Each trace carries values of its own, made just before it outside the timing. All options are the
  defaults. spanferry sends to a real Apache Kafka with acks=all; the others to a stub that answers at
  once, which flatters them. In the main table MLflow stores into a real `mlflow server` (SQLite) as
  well, which runs beside it on the same machine, as Kafka does for spanferry.
- "MLflow API, exporter only pops" is MLflow with MLFLOW_USE_BATCH_SPAN_PROCESSOR=false and an exporter
  that takes the ended trace and drops it: no exporter that is called where a span ends can cost less.
  MLflow's default hands ended spans to a thread of its own, so that a little of that work moves off the
  caller, and competes with it for the interpreter.
- spanferry writes JSON with orjson, which is faster than msgspec with long strings: a trace can cost less
  than one msgspec encode of what it carries.
- A figure is the median of the blocks, in brackets the lowest and the highest block; a ratio is that of
  two such figures, in brackets that of blocks side by side. p99 is that of a block of at least 100 traces;
  where blocks are shorter it is that of all traces together.
- "p99 less run queue" leaves out the time in which the machine had no core for the thread.
- tight is trace after trace; paced starts traces at a fixed rate, late ones at once. Lost is what never
  arrived.
- Trust the ratios, not the milliseconds: another machine has others. At 100 traces/s the caches are cold
  between requests, for all of them.
"""

REPRODUCE = """\
## Measure again

```sh
make bench                        # the main table and its promises, below 20 minutes
make bench ARGS="--full --peers"  # everything on this page, below 50; writes benchmarks/results/overhead.json
make bench ARGS=--quick           # a look, a minute and a half
.venv/bin/python -m benchmarks.plots benchmarks/results/overhead.json
.venv/bin/python -m benchmarks.document benchmarks/results/overhead.json
.venv/bin/python -m benchmarks.guard        # what the budget guard costs, half a minute
.venv/bin/python -m benchmarks.neighbours   # a giant's neighbours, in about 5 minutes
.venv/bin/python -m benchmarks.sender   # what a trace takes of the sender's thread, by linger_s
```

Without `--full` the results are in `benchmarks/results/last.tmp.json`. Langfuse and LangSmith are measured
where they are installed (`.venv/bin/uv pip install --python .venv langfuse langsmith`).
"""


def document(report: Report, source: Path) -> str:
    """The page, of a report that lies at `source`."""
    folder = Path(os.path.relpath(source.parent, PAGE.parent))
    drawn = {name: f"{folder.as_posix()}/{source.stem}-{name}.svg" for name in pictures(report)}
    parts = [HEAD.format(name=source.name, source=f"{folder.as_posix()}/{source.name}")]
    if report.run == "quick":
        parts.append(QUICK)
    parts.append(f"\n{conditions_line(report)}\n")
    if missing := missing_line(report):
        parts.append(f"\n{missing}\n")
    parts += ["\n## Promises\n\n", verdict_table(report.verdicts), "\n\n"]
    parts += _main(report, drawn)
    for series in measured_series(report):
        parts.append(f"## {series.title}\n\n")
        if series.name in drawn:
            parts.append(f"![{series.title}: p50 by tier]({drawn[series.name]})\n\n")
        parts.append(f"p50 / p99:\n\n{series_table(report, series)}\n\n")
        parts += _extra(report, series.name)
    parts += _beside(source.parent)
    return "".join([*parts, METHOD, "\n", REPRODUCE])


def _beside(folder: Path) -> list[str]:
    """What other runs have measured, whose results lie in the same folder."""
    measured_guard = guard.read(folder / guard.RESULTS.name)
    measured_giants = neighbours_report.read(folder / neighbours_report.RESULTS.name)
    return [
        *([guard.section(measured_guard)] if measured_guard else []),
        *([neighbours_report.section(measured_giants)] if measured_giants else []),
    ]


def _main(report: Report, drawn: dict[str, str]) -> list[str]:
    parts = ["## All tiers: 5 spans, 10 KB\n\n"]
    if "main" in drawn:
        parts.append(f"![p50 and p99 of every tier in three rhythms]({drawn['main']})\n\n")
    parts.append(f"p50 / p99:\n\n{summary_table(report)}\n\n")
    tables = [(case.how, main_table(report, case)) for case in MAIN]
    parts += [f"### {how[0].upper()}{how[1:]}\n\n{table}\n\n" for how, table in tables if table]
    return parts


def _extra(report: Report, series: str) -> list[str]:
    if series == "size" and (table := encode_table(report)):
        return [
            "p50 in msgspec encodes of the same payload, in the same process and rhythm "
            "with nothing left to send:\n\n"
            f"{table}\n\n"
        ]
    if series == "asyncio" and (table := lag_table(report)):
        return [f"How late the event loop gets meanwhile:\n\n{table}\n\n"]
    return []


def write(source: Path) -> Path:
    """Write the page from the results at `source`."""
    report = msgspec.json.decode(source.read_bytes(), type=Report)
    PAGE.write_text(document(report, source.resolve()))
    return PAGE


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
