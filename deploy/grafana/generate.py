"""Writes spanferry.json, the Grafana dashboard, from the table below: `python deploy/grafana/generate.py`.

A test fails while it is not current, names a metric that does not exist, or has PromQL that is none.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("spanferry.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHT = 8


class Panel(NamedTuple):
    """A chart: its queries by what their lines are called, the unit as Grafana names it."""

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""
    stacked: bool = False


W = '{job=~"$job", instance=~"$instance"}'
A = '{job=~"$app_job"}'
RATE = "[$__rate_interval]"


def rate(metric: str, by: str = "", where: str = W) -> str:
    """A counter a second, added up, or by a label."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}{RATE}))"


def total(metric: str, by: str = "", where: str = W) -> str:
    return f"sum{f' by ({by})' if by else ''} ({metric}{where})"


def highest(metric: str, by: str = "", where: str = W) -> str:
    return f"max{f' by ({by})' if by else ''} ({metric}{where})"


def quantile(share: str, metric: str) -> str:
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})"


ROWS: dict[str, list[Panel]] = {
    "Intake": [
        Panel(
            "Records and traces",
            "cps",
            {
                "records read": rate("spanferry_consume_records_total"),
                "traces assembled": rate("spanferry_assemble_finished_total"),
                "traces stored": rate("spanferry_write_traces_total"),
            },
        ),
        Panel(
            "Bytes",
            "Bps",
            {
                "read": rate("spanferry_consume_bytes_total"),
                "stored": rate("spanferry_write_bytes_total"),
            },
        ),
        Panel(
            "Held, and its limit",
            "bytes",
            {
                "held": total("spanferry_consume_held_bytes"),
                "limit": total("spanferry_consume_held_limit_bytes"),
                "open traces": total("spanferry_assemble_held_bytes"),
            },
            "At the limit intake pauses, and Kafka is the buffer.",
        ),
        Panel(
            "Intake stands",
            "percentunit",
            {"processes": f"avg (spanferry_consume_paused{W})"},
            "Part of the processes that hold as much as they may: the store is slower than what comes.",
        ),
        Panel(
            "Troubles",
            "cps",
            {
                "Kafka errors": rate("spanferry_consume_errors_total"),
                "stalls ({{stage}})": rate("spanferry_consume_stalls_total", "stage"),
                "rebalances": rate("spanferry_consume_rebalances_total"),
                "records missing": rate("spanferry_consume_sequence_missing_total"),
                "records repeated": rate("spanferry_consume_sequence_repeated_total"),
            },
        ),
    ],
    "Lag": [
        Panel(
            "Behind",
            "s",
            {
                "read": highest("spanferry_consume_lag_seconds"),
                "stored or decided": highest("spanferry_commit_lag_seconds"),
            },
            "Read: age of the newest record read, while others wait. Stored or decided: age of the oldest "
            "record that is neither; traces that are still open count, up to assemble.age_s.",
        ),
        Panel(
            "Records that wait",
            "short",
            {
                "in Kafka": total("spanferry_consume_lag_records"),
                "read, not decided": total("spanferry_commit_undecided_records"),
            },
        ),
        Panel(
            "Bytes that wait in Kafka (estimated)",
            "bytes",
            {"in Kafka": total("spanferry_consume_lag_bytes")},
            "The records that wait, by the mean size of those that were read last.",
        ),
        Panel(
            "Records that wait, by partition",
            "short",
            {"{{partition}}": total("spanferry_consume_lag_records", "partition")},
        ),
    ],
    "Assembly": [
        Panel(
            "Traces finished, why",
            "cps",
            {"{{reason}}": rate("spanferry_assemble_finished_total", "reason")},
            "complete is what should be; idle: the app never said that it was; memory: written early.",
            stacked=True,
        ),
        Panel("Open traces", "short", {"open": total("spanferry_assemble_open_traces")}),
        Panel(
            "Cut or written early, to save memory",
            "cps",
            {
                "payloads cut": rate("spanferry_assemble_cut_total"),
                "written as they stood": rate(
                    "spanferry_assemble_finished_total",
                    where='{job=~"$job", instance=~"$instance", reason="memory"}',
                ),
            },
            "Traces that never end, or giants: docs/operations.md, Memory.",
        ),
        Panel(
            "Spans",
            "cps",
            {
                "of finished traces": rate("spanferry_assemble_spans_total"),
                "that came again": rate("spanferry_assemble_spans_repeated_total"),
            },
        ),
    ],
    "Sampling": [
        Panel(
            "Outcome",
            "cps",
            {"{{outcome}}": rate("spanferry_sample_decisions_total", "outcome")},
            stacked=True,
        ),
        Panel(
            "Rule",
            "cps",
            {"{{rule}}": rate("spanferry_sample_decisions_total", "rule")},
            stacked=True,
        ),
        Panel(
            "Share that is kept whole",
            "percentunit",
            {
                "full": rate(
                    "spanferry_sample_decisions_total",
                    where='{job=~"$job", instance=~"$instance", outcome="full"}',
                )
                + " / "
                + rate("spanferry_sample_decisions_total")
            },
        ),
    ],
    "Store": [
        Panel(
            "Time of a write",
            "s",
            {
                "p50": quantile("0.5", "spanferry_write_seconds"),
                "p99": quantile("0.99", "spanferry_write_seconds"),
            },
        ),
        Panel(
            "From the last record of a trace to its being stored",
            "s",
            {
                "p50": quantile("0.5", "spanferry_write_delay_seconds"),
                "p99": quantile("0.99", "spanferry_write_delay_seconds"),
            },
        ),
        Panel(
            "Traces a batch",
            "short",
            {
                "mean": f"{rate('spanferry_write_batch_traces_sum')}"
                f" / {rate('spanferry_write_batch_traces_count')}"
            },
        ),
        Panel(
            "Failing",
            "s",
            {"{{instance}}": highest("spanferry_write_failing_seconds", "instance")},
            "For how long the store has been failing. Nothing is lost while Kafka keeps the records.",
        ),
        Panel(
            "Retries, refusals, commits",
            "cps",
            {
                "batches tried again": rate("spanferry_write_retries_total"),
                "traces refused": rate("spanferry_write_refused_total"),
                "commits {{result}}": rate("spanferry_commit_requests_total", "result"),
            },
        ),
        Panel(
            "Into the archive",
            "Bps",
            {"written": rate("spanferry_archive_bytes_total")},
            "Files of large traces, where archive.location is set.",
        ),
        Panel(
            "Large traces",
            "cps",
            {"{{result}}": rate("spanferry_archive_traces_total", "result")},
            "written: spans are in the archive; refused, unfit: they stay in the database.",
        ),
    ],
    "Dead letters": [
        Panel(
            "Dead letters",
            "cps",
            {"{{reason}}": rate("spanferry_dead_letters_total", "reason")},
            "`spanferry dlq list` says which.",
            stacked=True,
        ),
        Panel(
            "Share that is dead",
            "percentunit",
            {"{{stage}}": highest("spanferry_dead_letters_ratio", "stage")},
            "Above dead_letters.ratio_max (0.5) the breaker stops the worker.",
        ),
        Panel(
            "Originals that Kafka had removed",
            "cps",
            {"lost": rate("spanferry_dead_letters_lost_total")},
        ),
    ],
    "Ledger": [
        Panel(
            "Produced, and what became of it",
            "short",
            {
                "produced": total("spanferry_ledger_produced_records"),
                "{{outcome}}": total("spanferry_ledger_account_records", "outcome"),
                "dropped by apps": total("spanferry_ledger_dropped_parcels"),
            },
            "produced is the sum of all others, unless records are missing. Of all since the accounts began.",
        ),
        Panel(
            "Does not add up",
            "short",
            {
                "records missing": total("spanferry_ledger_missing_records"),
                "producers": total("spanferry_ledger_wrong_producers"),
            },
            "`spanferry ledger` names the producers and the numbers.",
        ),
        Panel(
            "Counted a second",
            "cps",
            {"{{outcome}}": rate("spanferry_ledger_records_total", "outcome")},
            stacked=True,
        ),
        Panel(
            "Kept",
            "short",
            {
                "processes that keep it": total("spanferry_ledger_kept"),
                "processes": f"count (spanferry_ledger_kept{W})",
                "failures a second": rate("spanferry_ledger_errors_total"),
            },
            "Where it is not kept traces flow all the same; the log says ledger.unkept.",
        ),
    ],
    "App side": [
        Panel(
            "Traces",
            "cps",
            {
                "ended": rate("spanferry_app_traces_total", where=A),
                "{{outcome}}": rate("spanferry_app_traces_settled_total", "outcome", A),
            },
        ),
        Panel(
            "Buffer and spool, parts used",
            "percentunit",
            {
                "buffer, {{job}}": f"max by (job) (spanferry_app_buffered_bytes{A}"
                f" / spanferry_app_buffer_limit_bytes{A})",
                "spool, {{job}}": f"max by (job) (spanferry_app_spool_used_bytes{A}"
                f" / (spanferry_app_spool_limit_bytes{A} > 0))",
            },
        ),
        Panel(
            "What recording a trace costs",
            "s",
            {
                "p{{quantile}}": highest("spanferry_app_overhead_seconds", "quantile", A),
                "p{{quantile}} for 10 KB": highest(
                    "spanferry_app_overhead_per_10kb_seconds", "quantile", A
                ),
            },
        ),
        Panel(
            "Budget guard",
            "short",
            {
                "level, {{job}}": highest("spanferry_app_budget_level", "job", A),
                "traces shortened a second": rate("spanferry_app_traces_shortened_total", where=A),
            },
        ),
        Panel(
            "Dropped, and trouble with Kafka",
            "cps",
            {
                "dropped: {{reason}}": rate("spanferry_app_parcels_dropped_total", "reason", A),
                "Kafka: {{reason}}": rate("spanferry_app_troubles_total", "reason", A),
            },
        ),
    ],
    "Processes": [
        Panel(
            "Ready",
            "short",
            {
                "ready": total("spanferry_worker_ready"),
                "processes": f"count (spanferry_worker_ready{W})",
            },
        ),
        Panel(
            "Memory",
            "bytes",
            {
                "{{instance}} {{process}}": f"process_resident_memory_bytes{W}"
                f" and on (instance, process) spanferry_worker_ready{W}",
                "limit, {{instance}}": f"max by (instance) (spanferry_worker_memory_limit_bytes{W} > 0)",
            },
        ),
        Panel(
            "CPU",
            "percentunit",
            {
                "{{instance}} {{process}}": f"rate(process_cpu_seconds_total{W}{RATE})"
                f" and on (instance, process) spanferry_worker_ready{W}"
            },
        ),
        Panel(
            "Restarts",
            "cps",
            {"{{instance}} {{process}}": f"rate(spanferry_supervisor_restarts_total{W}{RATE})"},
        ),
    ],
}

VARIABLES = {
    "job": "label_values(spanferry_worker_ready, job)",
    "instance": 'label_values(spanferry_worker_ready{job=~"$job"}, instance)',
    "app_job": "label_values(spanferry_app_enabled, job)",
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model has it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, charts in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append(
            {"type": "row", "title": row, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        across = 2 if len(charts) in {2, 4} else 3
        width = COLUMNS // across
        for index, chart in enumerate(charts):
            below, column = divmod(index, across)
            place = {"x": column * width, "y": y + below * HEIGHT, "w": width, "h": HEIGHT}
            panels.append(_panel(chart, place))
        y += -(-len(charts) // across) * HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "spanferry",
        "uid": "spanferry",
        "description": "From the apps through Kafka and the workers into MLflow.",
        "tags": ["spanferry", "mlflow", "kafka"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource(), *map(_variable, VARIABLES.items())]},
        "panels": panels,
    }


def _panel(chart: Panel, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    if chart.stacked:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    return {
        "type": "timeseries",
        "title": chart.title,
        "description": chart.about,
        "gridPos": place,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {"unit": chart.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(65 + n), "datasource": DATASOURCE, "expr": expr, "legendFormat": name}
            for n, (name, expr) in enumerate(chart.queries.items())
        ],
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _variable(item: tuple[str, str]) -> dict[str, Any]:
    name, query = item
    return {
        "name": name,
        "label": name.replace("_", " "),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
