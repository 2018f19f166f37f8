"""MLflow's daily figures: what bulk batches invalidate is what MLflow's own methods would have."""

import time
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from spanferry_schemas import TracePart
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place, every_database
from tests.sinks.stores import MS, START_NS, feedback, five_spans, ids, span, trace

pytestmark = pytest.mark.mlflow

QUEUE = "sql_trace_rollup_rebuild_queue"
DAY_NS = 86_400_000 * MS
TO_MIDNIGHT_MS = (DAY_NS - START_NS % DAY_NS) / MS
"""From where the tests' spans start to the end of that day, UTC."""
DAY, NEXT_DAY = "2025-10-09", "2025-10-10"
FAMILIES = {"trace_metric", "assessment", "span_cost"}


def traces() -> dict[str, AssembledTrace]:
    """One for each experiment, by its name."""
    root, child, early = ids(3)
    midnight = TO_MIDNIGHT_MS
    over_midnight = [
        span(root, at_ms=midnight - 1, for_ms=1000),
        span(child, root, at_ms=midnight, for_ms=500),
    ]
    before_its_root = [
        span(root, at_ms=midnight + 5, for_ms=1000),
        span(early, root, at_ms=midnight - 5, for_ms=100),
    ]
    today_ms = (time.time_ns() - START_NS) / MS
    made = {
        "plain": five_spans(),
        "judged": five_spans(assessments=[feedback(), feedback(name="other", value=b"0.5")]),
        "over midnight": trace(over_midnight, assessments=[feedback()]),
        "before its root": trace(before_its_root),
        "today": trace([span(root, at_ms=today_ms)], assessments=[feedback()]),
    }
    return {
        name: msgspec.structs.replace(one, trace=TracePart(experiment=name))
        for name, one in made.items()
    }


def taken(uri: str) -> list[tuple[Any, ...]]:
    """Every column of the queue, with the experiments' names; then there is no trace any more."""
    engine = sa.create_engine(uri)
    with engine.begin() as connection:
        named = f"SELECT e.name, q.* FROM {QUEUE} q LEFT JOIN experiments e USING (experiment_id)"
        rows = connection.execute(sa.text(named)).all()
        for table in ("assessments", "spans", "trace_tags", "trace_request_metadata", "trace_info"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
        connection.execute(sa.text(f"DELETE FROM {QUEUE}"))
    engine.dispose()
    return sorted(tuple(map(str, row)) for row in rows)


@every_database
async def test_daily_figures_are_queued_as_natively(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED", "true")
    made = traces()
    queued = []
    for bulk in (True, False):
        sink = await opened(database.uri, bulk=bulk)
        await sink.write(list(made.values()))
        queued.append(taken(database.database))
    ours, theirs = queued
    assert ours == theirs
    assert {len(row) for row in ours} == {4}, "name, experiment, day and family"
    days: dict[str, dict[str, set[str]]] = {name: {DAY: set(), NEXT_DAY: set()} for name in made}
    for name, _, day, family in ours:
        days[name][day].add(family)
    assert days == {
        "plain": {DAY: FAMILIES, NEXT_DAY: set()},
        "judged": {DAY: FAMILIES, NEXT_DAY: set()},
        "over midnight": {DAY: FAMILIES, NEXT_DAY: {"span_cost"}},
        "before its root": {DAY: {"span_cost"}, NEXT_DAY: FAMILIES},
        "today": {DAY: set(), NEXT_DAY: set()},
    }
