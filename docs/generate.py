"""Writes docs/settings.md, docs/metrics.md and the log events in docs/operations.md from the code, and the
figures of overload there from what was measured: `python docs/generate.py`.

A test fails while they are not current.
"""

import ast
import inspect
import itertools
import json
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
OVERLOAD = FOLDER.parent / "benchmarks/results/overload-worker.json"
CROWDS = FOLDER.parent / "benchmarks/results/crowds.json"

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
OVERLOAD_BEGIN = "<!-- made by docs/generate.py from benchmarks/results/overload-worker.json -->"
CROWDS_BEGIN = "<!-- made by docs/generate.py from benchmarks/results/crowds.json -->"
END = "<!-- end -->"

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


def overload_text() -> str:
    """What a worker has taken under ten times its store's rate, as docs/operations.md has it."""
    report = json.loads(OVERLOAD.read_text())
    where = report["conditions"]
    mixed = (one for one in report["figures"] if (one["traffic"], one["bulk"]) == ("mixed", True))
    one, *others = mixed
    smaller = "".join(
        f"With a limit of {other['limit_mb']:.0f} MB it was {other['peak_mb']:.0f} MB at most "
        f"({other['seconds'] / 60:.0f} minutes, {other['times']:.1f} times as much). "
        for other in others
    )
    peak, idle, limit = one["peak_mb"], one["idle_mb"], one["limit_mb"]
    peaks = ", ".join(f"{each:.0f}" for each in one["peaks_mb"])
    return (
        f"Measured: {one['seconds'] / 60:.0f} minutes in which {one['times']:.1f} times as much was produced "
        f"as an SQLite store took ({one['produced_per_s']:.0f}\nagainst {one['stored_per_s']:.0f} traces/s, "
        "of chats, spans with tiny attributes, traces that never end and 3 MB giants;\n"
        f"intake stood {one['paused_share'] * 100:.0f} % of the time): {idle:.0f} MB when it began, "
        f"{peak:.0f} MB at most, which is {peak - limit:.0f} MB beyond the limit of "
        f"{limit:.0f}. The\nhighest of each minute: {peaks} MB. "
        f"Of the giants {one['cut']} were cut,\n{one['written_early']} traces were "
        f"written early, {one['dead']} records were dead.\n{smaller}`python -m benchmarks.overload`\n"
        f"({where['cores']} cores with a load of {where['load_1m']} before, commit {where['commit']}, "
        f"{where['at']}).\n"
    )


CROWD_TITLES = {
    "giant": "one trace of 500 spans",
    "wide": "one trace of 50,000 spans",
    "crowd": "100,000 traces of one span that do not end",
}


def crowds_text() -> str:
    """What other traces waited for beside huge ones, as docs/operations.md has it."""
    report = json.loads(CROWDS.read_text())
    where = report["conditions"]
    rows = [_crowd_row(one) for one in report["figures"]]
    return (
        "Beside 20 traces/s of 10 KB came, as fast as Kafka took it (`python -m benchmarks.crowds`, "
        "PostgreSQL):\n\n"
        "| what | sent in | from record to store before, p50 / p99 | beside it | process at most "
        "| held at most | open at once | cut | written early | dead |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
        f"{''.join(rows)}\n"
        f"Of a limit of {report['figures'][0]['limit_mb']:.0f} MB ({where['cores']} cores with a load of "
        f"{where['load_1m']} before, commit {where['commit']}, {where['at']}).\n"
    )


def _crowd_row(one: dict[str, Any]) -> str:
    before, beside = one["quiet"], one["beside"]
    cells = (
        f"{CROWD_TITLES[one['kind']]}, {one['megabytes']:.0f} MB",
        f"{one['sent_in_s']:.1f} s",
        f"{before['p50_s']:.2f} / {before['p99_s']:.2f} s",
        f"{beside['p50_s']:.2f} / {beside['p99_s']:.2f} s",
        f"{one['peak_mb']:.0f} MB",
        f"{one['held_peak_mb']:.0f} MB",
        f"{one['open_peak']:,}",
        f"{one['cut']}",
        f"{one['written_early']:,}",
        f"{one['dead']}",
    )
    return f"| {' | '.join(cells)} |\n"


def operations_document() -> str:
    """docs/operations.md as it stands, with what is made of something else made anew."""
    text = (FOLDER / "operations.md").read_text()
    sections = {
        EVENTS_BEGIN: events_table(),
        OVERLOAD_BEGIN: overload_text(),
        CROWDS_BEGIN: crowds_text(),
    }
    for begin, content in sections.items():
        head, found, rest = text.partition(begin)
        _, end, tail = rest.partition(END)
        assert found
        assert end
        text = f"{head}{begin}\n{content}{end}{tail}"
    return text


DOCUMENTS = {
    "settings.md": settings_document,
    "metrics.md": metrics_document,
    "operations.md": operations_document,
}

if __name__ == "__main__":
    for name, make in DOCUMENTS.items():
        (FOLDER / name).write_text(make())
    sys.exit(0)
