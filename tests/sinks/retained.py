"""Helpers: traces of known age in a store, and `spanferry retention` before it."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from spanferry_schemas import StatusCode, TracePart, TraceState
from spanferry_worker import cli
from spanferry_worker.services.mlflow_sink import MlflowSink
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import Place
from tests.sinks.stores import START_NS, ids, span, trace

START_MS = START_NS // 1_000_000
STEP_MS = 1_000
OF_TRACES = {
    "spans": "trace_id",
    "trace_tags": "request_id",
    "trace_request_metadata": "request_id",
    "assessments": "trace_id",
}
"""Tables with rows of a trace, and their column with its id."""


class Ended(NamedTuple):
    """What a command has said."""

    code: int
    out: str
    err: str


def old(number: int, experiment: str, **fields: Any) -> AssembledTrace:
    """A trace with two spans that starts `number` steps after the first."""
    root, child = ids(2)
    state = fields.pop("state", TraceState.OK)
    tags = fields.pop("tags", {})
    at_ms = number * STEP_MS
    spans = [
        span(child, root, at_ms=at_ms),
        span(
            root,
            at_ms=at_ms,
            for_ms=None if state is TraceState.IN_PROGRESS else 12,
            status=StatusCode.ERROR if state is TraceState.ERROR else StatusCode.OK,
        ),
    ]
    part = TracePart(experiment=experiment, tags=tags, state=state)
    return trace(spans, part=part, **fields)


def named(one: AssembledTrace) -> str:
    return f"tr-{(one.trace_id or b'').hex()}"


def older_than(number: int) -> str:
    """The argument by which `old(number)` and what comes after it stay."""
    moment = datetime.fromtimestamp((START_MS + number * STEP_MS) / 1000, UTC)
    return f"--older-than={moment.isoformat(timespec='milliseconds')}"


class Desk:
    """A place with an experiment of its own, and the command line before it."""

    def __init__(self, place: Place, sink: MlflowSink, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.sink = sink
        self.experiment = f"e-{uuid.uuid4().hex[:8]}"
        self._capsys = capsys

    async def put(self, count: int, **fields: Any) -> list[str]:
        """So many traces, one a step; their ids, the oldest first."""
        traces = [old(number, self.experiment, **fields) for number in range(count)]
        return await self.store(traces)

    async def store(self, traces: Sequence[AssembledTrace]) -> list[str]:
        await self.sink.write(traces)
        return [named(one) for one in traces]

    async def retention(self, *words: str) -> Ended:
        """Of this place and this experiment, without pauses."""
        return await self.run(f"--experiment={self.experiment}", "--pause=0", *words)

    async def run(self, *words: str) -> Ended:
        self._capsys.readouterr()
        words = ("retention", f"--tracking-uri={self.place.uri}", *words)
        code = await asyncio.to_thread(cli.main, words)
        return Ended(code, *self._capsys.readouterr())

    async def left(self) -> set[str]:
        """Ids of the experiment's traces."""
        return await asyncio.to_thread(self._left)

    def _left(self) -> set[str]:
        store = self.place.store
        found = store.get_experiment_by_name(self.experiment)
        infos, _ = store.search_traces(locations=[found.experiment_id], max_results=5_000)
        return {info.trace_id for info in infos}


async def remains(place: Place) -> dict[str, int]:
    """Rows by table whose trace is not there any more, of tables that have such rows."""
    return await asyncio.to_thread(_remains, place.database)


def _remains(database: str) -> dict[str, int]:
    engine = sa.create_engine(database)
    found: dict[str, int] = {}
    with engine.connect() as connection:
        for table, column in OF_TRACES.items():
            query = (
                f"SELECT count(*) FROM {table} WHERE {column} NOT IN "
                "(SELECT request_id FROM trace_info)"
            )
            if count := connection.execute(sa.text(query)).scalar_one():
                found[table] = count
    engine.dispose()
    return found
