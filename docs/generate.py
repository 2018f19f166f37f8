"""Writes docs/settings.md, docs/metrics.md and the log events in docs/operations.md from the code:
`python docs/generate.py`.

A test fails while they are not current.
"""

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import Counter

from spanferry.client import Stats
from spanferry.metrics.rows import ROWS, Kind, Row
from spanferry.settings import Settings as AppSettings
from spanferry_schemas.security import Security
from spanferry_worker.services.metrics import Metrics, SupervisorMetrics
from spanferry_worker.settings import FLAGS
from spanferry_worker.settings import Settings as WorkerSettings
from spanferry_worker.telemetry import LogEvent

FOLDER = Path(__file__).parent

SETTINGS_HEAD = """\
# Settings

Made from the code by `python docs/generate.py`. Sizes are in bytes, times in seconds.

## The app side

Arguments of `spanferry.enable()`; each is also an environment variable, `SPANFERRY_` and the name in
capitals. Arguments go first. The experiment falls back to `MLFLOW_EXPERIMENT_ID` and
`MLFLOW_EXPERIMENT_NAME`. All of them, but passwords, are options of `spanferry run` too. `SPANFERRY_ENABLED`
and `ENABLE_MLFLOW_TRACING` switch [on and off](zero-code.md#on-and-off).
What TLS and SASL need stands [below](#signing-in).

"""

SECURITY_HEAD = """
## Signing in

The same names for the app and, in the section `kafka`, for the worker and all commands, which read the
app's `SPANFERRY_` variables where their own are not set. Files are read again for every new connection.
How to secure what: [operations](operations.md#securing-the-way-to-kafka).

"""

WORKER_HEAD = """
## The worker

Arguments over environment over a TOML file (`--config`) over defaults. On the command line a setting
is `--set section.name=value`, or its flag where it has one; in the environment
`SPANFERRY_WORKER_SECTION_NAME`; in the file `name` under `[section]`. `SPANFERRY_BOOTSTRAP_SERVERS`,
`SPANFERRY_TOPIC`, the variables of [signing in](#signing-in), `MLFLOW_TRACKING_URI` and
`MLFLOW_EXPERIMENT_NAME` are read where ours are not set.
"""

METRICS_HEAD = """\
# Metrics

Made from the code by `python docs/generate.py`.

## The worker

Every worker process serves them in Prometheus's format at `/metrics` of its health port. With
`process.processes` above 1 the supervisor serves those of all processes on one page, each sample with the
label `process`, and `spanferry_supervisor_*`. A partition belongs to one process, so lag adds up over
processes. Beside them stand Prometheus's own `process_*`: memory, CPU, open files, start time.

"""

APP_METRICS_HEAD = """
## The app side

What `spanferry.stats()` counts, once the app asks for it, for [Prometheus or
OpenTelemetry](operations.md#metrics-of-the-app). In OpenTelemetry `spanferry_app_` is `spanferry.app.`,
and the unit is no part of the name. Where several processes answer for one page, gauges are sums over
those that live, unless the highest counts.

"""

EVENTS_BEGIN = "<!-- made by docs/generate.py from worker/spanferry_worker/telemetry.py -->"
EVENTS_END = "<!-- end -->"

METRICS_TABLE = "| metric | type | labels | what |\n|---|---|---|---|\n"
KINDS = {Kind.COUNTER: "counter", Kind.SUM: "gauge", Kind.HIGHEST: "gauge, the highest"}


def settings_document() -> str:
    """docs/settings.md."""
    lines = [SETTINGS_HEAD, *_table(AppSettings, flags={})]
    lines += [SECURITY_HEAD, *_table(Security, flags={})]
    lines.append(WORKER_HEAD)
    for section in msgspec.structs.fields(WorkerSettings):
        kind: Any = section.type
        lines += [f"\n### {section.name}\n\n{_first_paragraph(kind)}\n\n"]
        by_key = {key: flag for flag, key in FLAGS.items()}
        flags = {
            key.partition(".")[2]: flag
            for key, flag in by_key.items()
            if key.startswith(f"{section.name}.")
        }
        lines += _table(kind, flags=flags)
    return "".join(lines)


def metrics_document() -> str:
    """docs/metrics.md."""
    rows: list[str] = []
    metrics = Metrics()
    for metric in (*_worker_metrics(metrics), *vars(SupervisorMetrics()).values()):
        if not hasattr(metric, "_labelnames"):
            continue
        name = metric._name + ("_total" if isinstance(metric, Counter) else "")
        labels = ", ".join(metric._labelnames)
        rows.append(f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |\n")
    app = [
        f"| `{row.prometheus_name}` | {KINDS[row.kind]} | {_label(row)} | {row.text} |\n"
        for row in ROWS
        if set(row.fields.values()) <= set(Stats.__struct_fields__)
    ]
    tables = [METRICS_HEAD, METRICS_TABLE, *rows, APP_METRICS_HEAD, METRICS_TABLE, *app]
    return "".join(tables)


def _worker_metrics(metrics: Metrics) -> Iterator[Any]:
    for metric in vars(metrics).values():
        yield from (metric,) if hasattr(metric, "_labelnames") else vars(metric).values()


def _label(row: Row) -> str:
    known = [*row.known, *(value for value in row.fields if value not in {"", "*"})]
    return f"{row.label}: {', '.join(known)}" if row.label else ""


def _table(kind: type[Struct], flags: dict[str, str]) -> list[str]:
    notes = _notes(kind)
    rows = ["| name | default | what |\n|---|---|---|\n"]
    for field in msgspec.structs.fields(kind):
        if kind is not Security and field.name in Security.__struct_fields__:
            continue  # they have a table of their own
        default = "" if field.default is msgspec.NODEFAULT else _shown(field.default)
        flag = f" (`--{flags[field.name].replace('_', '-')}`)" if field.name in flags else ""
        rows.append(f"| `{field.name}`{flag} | {default} | {notes.get(field.name, '')} |\n")
    return rows


def _shown(value: object) -> str:
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:,}"
    return f"{value}"


def _notes(kind: type[Struct]) -> dict[str, str]:
    """The strings that stand below the fields, those of the bases included."""
    notes: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one is Struct or not issubclass(one, Struct) or one.__module__ == "msgspec":
            continue
        tree = ast.parse(inspect.getsource(one))
        [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
        for field, note in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr):
                assert isinstance(field.target, ast.Name)
                text = ast.literal_eval(note.value)
                notes[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return notes


def _first_paragraph(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def events_table() -> str:
    """The log events, as docs/operations.md has them between two comments."""
    tree = ast.parse(inspect.getsource(LogEvent))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    notes = {
        member.targets[0].id: ast.literal_eval(note.value)
        for member, note in itertools.pairwise(body)
        if isinstance(member, ast.Assign)
        and isinstance(member.targets[0], ast.Name)
        and isinstance(note, ast.Expr)
    }
    rows = [f"| `{event}` | {notes[event.name]} |\n" for event in LogEvent]
    return "".join(["| event | means |\n|---|---|\n", *rows])


def operations_document() -> str:
    """docs/operations.md as it stands, with the table of events made anew."""
    text = (FOLDER / "operations.md").read_text()
    head, begin, rest = text.partition(EVENTS_BEGIN)
    _, end, tail = rest.partition(EVENTS_END)
    assert begin
    assert end
    return f"{head}{begin}\n{events_table()}{end}{tail}"


DOCUMENTS = {
    "settings.md": settings_document,
    "metrics.md": metrics_document,
    "operations.md": operations_document,
}

if __name__ == "__main__":
    for name, make in DOCUMENTS.items():
        (FOLDER / name).write_text(make())
    sys.exit(0)
