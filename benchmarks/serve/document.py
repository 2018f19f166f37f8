"""Writes docs/benchmarks-serving.md: `python -m benchmarks.serve.document benchmarks/results/serving.json`.

A test fails while it is not what the published results say.
"""

import os
import sys
from pathlib import Path

import msgspec

from benchmarks.serve.cases import Case, Kafka
from benchmarks.serve.plots import pictures
from benchmarks.serve.report import Report
from benchmarks.serve.tables import break_even, case_table, conditions_line, measured, memory_table
from benchmarks.tables import verdict_table

__all__ = ["PAGE", "document", "write"]

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks-serving.md"

HEAD = """\
# Benchmarks: a served app

Made from [{name}]({source}) by `python -m benchmarks.serve.document`. What an app under load pays for
being traced; what one trace costs its thread is [another page](benchmarks.md).
"""

SHORT = """
> These figures are from a short run on a busy machine. They show the form of this page; do not quote them,
> neither the figures nor the verdicts, whichever way they point.
"""

METHOD = """\
## How it is measured

- The endpoint ([work.py](../benchmarks/serve/work.py)) does for one request: pydantic validates the body
  (400 bytes); 20 candidate documents (31 KB of JSON) are parsed and validated as a store's answer, and
  ranked by the words they share with the question; rows are parsed; a prompt is made; a model is waited
  for ({model_ms:g} ms of sleep) and its answer parsed and validated; the reply (800 bytes) is validated and
  encoded. That is 1.1 to 1.4 ms of CPU, and what the web framework and server take on top. "That calls its
  model over HTTP": instead of sleeping the app asks the stub with httpx, which answers after the same
  time, as an app does that has a model; that is its own work, too. Each request
  makes a trace of 5 nested spans that carry 10.2 KB of what the app had in its hands anyway.
- The code is the same in every app, only `start_span` is another one; untraced it does nothing. "MLflow
  imported" is that, too: an app that uses MLflow's API has it in memory whether it traces or not, and the
  garbage collector walks it. With it MLflow's API on spanferry is compared.
- FastAPI under uvicorn (one process, its default loop and protocol of those installed; no access log), Flask
  under gunicorn (one worker, {threads} threads). All SDKs with their default options.
- {cores}
- Every way to trace lives in a process of its own. They take turns in short blocks, in an order that
  rotates from round to round; ratios are taken within a round. A figure is the median of the rounds, in
  brackets the lowest and the highest; p99.9 is that of all rounds together, where there were 1,000
  requests (`-`: it was not measured).
- Closed load: {connections} connections, each sending when it has its answer, by {closed_by}. Its
  latencies are those of a queue at the app's limit.
- Open load: requests due at a constant rate; latency counts from when one was due, whether or not a
  connection was free (no coordinated omission). Who does not keep up with the rate has latencies that
  grow as long as the block lasts: read "answered a second" first.
- CPU is that of all threads of the serving process, until the block's traces have left it; with Kafka dead
  until the load ends.
- Kafka slow: stopped (SIGSTOP) for 0.9 s of every second. Kafka dead: shut down, connections are refused;
  its traces are counted after it was started again.
- spanferry sends to a real Apache Kafka with acks=all; MLflow and OpenTelemetry to a stub that answers
  at once, which flatters them.
- Memory: apps for which there never was a Kafka, under closed load until the buffer is full and drops;
  the untraced app answered as many requests, and has imported mlflow where the traced one has.
"""

CORES = (
    "All threads of all apps are on one core; load generator, Kafka, stub and the harness on another, where "
    "Kafka and stub give way to the load generator. So whatever tracing does on threads of its own is "
    "taken from the app's requests, as on a machine whose cores are all in use."
)
NO_CORES = "The machine has one core for everything: compare ratios only."

REPRODUCE = """\
## Measure again

```sh
make bench-serving                # everything on this page, below 45 minutes
make bench-serving ARGS=--quick   # a look in two minutes, into benchmarks/results/serving.tmp.json
.venv/bin/python -m benchmarks.serve.plots benchmarks/results/serving.json
.venv/bin/python -m benchmarks.serve.document benchmarks/results/serving.json
```

Closed load is made by wrk where it is installed (`apt-get install wrk`), else by
[load.py](../benchmarks/serve/load.py), which makes the open load in any case.
"""

_HEADS = {
    "fastapi": "FastAPI",
    "fastapi-httpx": "FastAPI that calls its model over HTTP",
    "flask": "Flask",
    "flask-httpx": "Flask that calls its model over HTTP",
}


def document(report: Report, source: Path) -> str:
    """The page, of a report that lies at `source`."""
    folder = Path(os.path.relpath(source.parent, PAGE.parent)).as_posix()
    parts = [HEAD.format(name=source.name, source=f"{folder}/{source.name}")]
    if report.run != "full":
        parts.append(SHORT)
    parts += [
        f"\n{conditions_line(report)}\n",
        "\n## Promises\n\n",
        verdict_table(report.verdicts),
        "\n\n",
    ]
    if lines := break_even(report):
        parts.append(f"CPU that tracing takes, at the app's limit:\n\n{lines}\n\n")
    for name in pictures(report):
        parts.append(f"![{name}]({folder}/{source.stem}-{name}.svg)\n\n")
    for case in measured(report):
        parts.append(f"## {_title(case)}\n\n{case_table(report, case)}\n\n")
    if report.memory:
        parts.append(f"## Memory under a full buffer\n\n{memory_table(report)}\n\n")
    if report.missing:
        missing = ", ".join(f"{name} ({why})" for name, why in report.missing.items())
        parts.append(f"Not measured: {missing}.\n\n")
    return "".join([*parts, _method(report), "\n", REPRODUCE])


def _title(case: Case) -> str:
    load = f"{case.rate:g} requests a second" if case.rate else "as many requests as it can take"
    kafka = "" if case.kafka == Kafka.HEALTHY else f", Kafka {case.kafka}"
    return f"{_HEADS[case.server]}: {load}{kafka}"


def _method(report: Report) -> str:
    return METHOD.format(
        model_ms=report.model_s * 1000,
        threads=report.flask_threads,
        cores=NO_CORES if report.app_core == "-" else CORES,
        connections=32,
        closed_by=report.closed_by,
    )


def write(source: Path) -> Path:
    """Write the page from the results at `source`."""
    report = msgspec.json.decode(source.read_bytes(), type=Report)
    PAGE.write_text(document(report, source.resolve()))
    return PAGE


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
