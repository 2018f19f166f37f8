"""Whatever `stats()` has is a metric, by names that Prometheus and OpenTelemetry expect."""

import re

import pytest

from spanferry.client import Client, Stats
from spanferry.metrics.rows import NOT_EXPORTED, ROWS, Kind
from spanferry.settings import load_settings
from spanferry.troubles import TroubleKind


def by_name():
    return {row.name: row for row in ROWS}


def test_every_field_of_stats_is_exported() -> None:
    exported = {field for row in ROWS for field in row.fields.values()}
    missing = set(Stats.__struct_fields__) - exported - set(NOT_EXPORTED)
    assert not missing, f"give these a row in spanferry/metrics/rows.py: {sorted(missing)}"
    gone = (exported | set(NOT_EXPORTED)) - set(Stats.__struct_fields__)
    assert not gone, f"Stats has no such fields any more: {sorted(gone)}"


def test_no_metric_and_no_field_comes_twice() -> None:
    names = [row.prometheus_name for row in ROWS]
    fields = [field for row in ROWS for field in row.fields.values()]
    assert len(set(names)) == len(names)
    assert len(set(fields)) == len(fields)


def test_labels_are_there_from_the_start() -> None:
    """`rate()` does not see the first increase of a series that begins with it."""
    assert by_name()["troubles"].known == tuple(TroubleKind)
    dropped = Client(load_settings({"bootstrap_servers": "x:1"}, {})).stats().dropped
    assert by_name()["parcels_dropped"].known == tuple(dropped)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_names_follow_prometheus(row) -> None:
    assert re.fullmatch(r"spanferry_app_[a-z0-9_]+", row.prometheus_name)
    assert row.prometheus_name.endswith("_total") == (row.kind is Kind.COUNTER)
    in_bytes = any("bytes" in field for field in row.fields.values())
    assert (row.unit == "By") == in_bytes == ("_bytes" in row.prometheus_name)
    assert (row.unit == "s") == row.prometheus_name.endswith("_seconds")
    assert row.text.endswith(".") or "`" in row.text
    assert bool(row.label) == (set(row.fields) != {""})


def test_what_the_budget_guard_knows_is_exported_in_base_units() -> None:
    stats = Stats(
        overhead_watched=8,
        overhead_p50_ms=1.5,
        overhead_p99_ms=3.0,
        overhead_p99_ms_per_10kb=0.25,
        budget_level=2,
        traces_shortened=7,
    )
    read = {row.prometheus_name: row.read(stats) for row in ROWS}
    assert read["spanferry_app_overhead_seconds"] == {"0.5": 0.0015, "0.99": 0.003}
    assert read["spanferry_app_overhead_per_10kb_seconds"] == {"0.99": 0.00025}
    assert read["spanferry_app_budget_level"] == {"": 2}
    assert read["spanferry_app_traces_shortened_total"] == {"": 7}
    assert read["spanferry_app_overhead_seconds"] != by_name()["overhead"].read(Stats())
