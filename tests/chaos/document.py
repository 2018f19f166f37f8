"""Writes the figures of the long run into docs/guarantees.md: `python -m tests.chaos.document`.

A test fails while they are not what the results say.
"""

from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.machine import in_words
from benchmarks.sections import with_section
from tests.chaos.report import Report

__all__ = ["PAGE", "RESULTS", "page", "paragraph"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
PAGE = ROOT / "docs" / "guarantees.md"
BEGIN = "<!-- made by `python -m tests.chaos.document` from benchmarks/results/chaos.json -->"
END = "<!-- end -->"


def paragraph(report: Report) -> str:
    """What was done, and what came of it."""
    account, ledger, plan = report.account, report.ledger, report.plan
    counted = Counter(one.kind.value for one in report.faults)
    faults = ", ".join(f"{kind} ({count})" for kind, count in sorted(counted.items()))
    letters = sum(report.letters.values())
    rule = ""
    if plan.all_outcomes:
        rule = f"| for a rule that drops | {account.sampled:,}, none of them stored |\n"
    return f"""\
`make chaos ARGS="--traces {plan.traces} --faults {plan.faults} --seed {plan.seed}"`: **{account.promised:,} \
traces, {len(report.faults)} faults, {account.lost} lost, {account.doubled} doubled** \
({report.load_s / 60:.0f} minutes of load; {report.conditions.cpu}, {report.conditions.cores} cores).

| | |
|---|---|
| faults | {faults} |
| stored whole and once, through MLflow's API | {account.stored:,} traces with {account.spans:,} spans, \
{account.payload_bytes / 1e6:,.0f} MB of payload compared, {account.judgements:,} judgements |
| not promised: in a killed producer's memory, not yet looked at by its sender | \
{account.unpromised:,}, of which {account.unpromised_stored:,} arrived all the same, \
{account.unpromised_partly:,} in part |
{rule}| dropped by full buffers; dead letters | {account.dropped:,}; {letters:,} |
| the ledger, in records | produced {ledger.produced:,} = stored {ledger.stored:,} + sampled \
{ledger.sampled:,} + dead {ledger.dead_lettered:,} + dropped {ledger.dropped:,} + settled \
{ledger.settled:,}; missing {ledger.missing:,} |
| Kafka's topic, read anew | {report.kafka.records:,} records, {report.kafka.repeated:,} of them came twice |
| nothing in flight any more | {report.settled_s:.0f} s after the last trace |

Measured {report.conditions.at}: {in_words(report.conditions)}.
"""


def page(report: Report) -> str:
    """docs/guarantees.md as it stands, with the figures made anew."""
    return with_section(PAGE.read_text(), BEGIN, paragraph(report), END)


if __name__ == "__main__":
    PAGE.write_text(page(msgspec.json.decode(RESULTS.read_bytes(), type=Report)))
