"""Away, busy, or two at once: what is transient is said to be, and nothing is lost or doubled."""

import asyncio
import contextlib
import itertools
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.rest_store import RestStore

from benchmarks.stores_ways import entities, log_into
from spanferry_schemas import TracePart
from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services.mlflow_private import credentials
from spanferry_worker.services.mlflow_sink import MlflowSink
from tests.services.mlflow import MlflowServer
from tests.services.postgres import PostgresServer
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.stores import feedback, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow


async def test_the_database_goes_away_and_comes_back(opened: OpenSink) -> None:
    with PostgresServer() as server:
        sink = await opened(server.new_database())
        batch = [five_spans() for _ in range(3)]
        await sink.write(batch[:1])
        server.stop()
        with pytest.raises(TransientError):
            await sink.write(batch)
        server.start()
        await sink.write(batch)
        await sink.close()


async def test_a_locked_sqlite_file(
    opened: OpenSink, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    sink = await opened(f"sqlite:///{path}?timeout=0.1")
    import sqlalchemy

    original = sqlalchemy.text

    def impatient(text: str) -> sqlalchemy.TextClause:
        return original(text.replace("busy_timeout = 20000", "busy_timeout = 100"))

    monkeypatch.setattr("mlflow.store.db.utils.sql.text", impatient)
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TransientError, match="locked"):
        await sink.write([five_spans()])
    lock.execute("ROLLBACK")
    lock.close()
    await sink.write([five_spans()])


async def test_an_sqlite_file_beside_its_server(
    opened: OpenSink, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the server the file is searched, tagged and natively logged into while batches go in."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # what the server refuses is seen
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    sink = await opened(f"sqlite:///{path}", default_experiment="Default")
    with MlflowServer(f"sqlite:///{path}") as server:
        beside = Beside(server.uri, sink)
        work = [asyncio.to_thread(beside.search_and_tag), asyncio.to_thread(beside.log)]
        using = [asyncio.create_task(one) for one in work]
        written: list[str] = []
        try:
            while len(written) < 2_000 or (len(written) < 5_000 and not beside.has_had_turns):
                batch = [five_spans() for _ in range(100)]
                await sink.write(batch)
                written += [f"tr-{(one.trace_id or b'').hex()}" for one in batch]
        finally:
            beside.over.set()
            await asyncio.gather(*using)
        assert "locked" not in server.log_tail()
    assert beside.has_had_turns
    with contextlib.closing(sqlite3.connect(path)) as raw:
        spans = dict(raw.execute("SELECT trace_id, count(*) FROM spans GROUP BY trace_id"))
        found = [row[0] for row in raw.execute("SELECT request_id FROM trace_info")]
        tags = dict(raw.execute("SELECT request_id, value FROM trace_tags WHERE key = 'seen'"))
    assert sorted(found) == sorted([*written, *beside.logged])
    assert spans == dict.fromkeys(found, 5)
    assert tags == beside.tagged


class Beside:
    """What MLflow's own clients do with a server until it is over."""

    def __init__(self, uri: str, sink: MlflowSink) -> None:
        self._uri = uri
        self._builder: Any = sink._writer._builder  # type: ignore[union-attr]
        self.over = threading.Event()
        self.tagged: dict[str, str] = {}
        self.logged: list[str] = []

    @property
    def has_had_turns(self) -> bool:
        return min(len(self.tagged), len(self.logged)) >= 3

    def search_and_tag(self) -> None:
        client = MlflowClient(self._uri)
        for number in itertools.count():
            if self.over.is_set():
                return
            found = client.search_traces(locations=["0"], max_results=5)
            if found:
                trace_id = found[number % len(found)].info.trace_id
                client.set_trace_tag(trace_id, "seen", str(number))
                self.tagged[trace_id] = str(number)

    def log(self) -> None:
        log = log_into(RestStore(partial(credentials, self._uri)))
        while not self.over.is_set():
            for info, spans in entities(self._builder, [five_spans()]):
                log((info, spans))
                self.logged.append(info.trace_id)


async def test_missing_rights_lose_nothing(
    opened: OpenSink, postgres_template: Callable[[], str]
) -> None:
    """An operator can give them back, so the traces wait."""
    uri = postgres_template()
    owner = psycopg.connect(uri.replace("+psycopg", ""), autocommit=True)
    owner.execute("DROP ROLE IF EXISTS reader")
    owner.execute("CREATE ROLE reader LOGIN")
    owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    sink = await opened(uri.replace("postgres@", "reader@"), default_experiment="Default")
    with pytest.raises(TransientError, match="permission denied"):
        await sink.write([five_spans()])
    owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO reader")
    await sink.write([five_spans()])
    await sink.close()
    owner.execute("DROP OWNED BY reader")
    owner.execute("DROP ROLE reader")
    owner.close()


@everywhere
async def test_many_workers_write_the_same_traces_at_once(place: Place, opened: OpenSink) -> None:
    """As after a rebalance, when the old owner has not noticed yet."""
    sinks = [await opened(place.uri) for _ in range(3)]
    part = TracePart(experiment="shared", tags={"a": "b"})
    batch = [five_spans(part=part, assessments=[feedback()]) for _ in range(8)]

    async def write(sink: object, mine: list[object]) -> None:
        for _ in range(20):
            try:
                await sink.write(mine)  # type: ignore[attr-defined]
                return
            except TransientError:
                await asyncio.sleep(0.05)
        pytest.fail("never stored")

    async with asyncio.TaskGroup() as tasks:
        for index, sink in enumerate(sinks):
            shifted = [*batch[index:], *batch[:index]]
            tasks.create_task(write(sink, shifted))
    for one in batch:
        found = place.trace(one.trace_id or b"")
        assert len(found.data.spans) == 5
        assert len(found.info.assessments) == 1
        assert found.info.state.value == "OK"
        usage = json.loads(found.info.trace_metadata["mlflow.trace.tokenUsage"])
        assert usage["total_tokens"] == 15


@everywhere
async def test_parts_of_one_trace_from_two_workers_at_once(place: Place, opened: OpenSink) -> None:
    first, second = [await opened(place.uri) for _ in range(2)]
    pairs = []
    for _ in range(6):
        root, mine, theirs = ids(3)
        usage = b'{"input_tokens":1,"output_tokens":1,"total_tokens":2}'
        attributes = {"mlflow.chat.tokenUsage": usage}
        front = trace([span(root), span(mine, root, attributes=attributes)], complete=False)
        back = late(front, spans=[span(theirs, root, attributes=attributes)], complete=False)
        pairs.append((front, back))

    async def write(sink: object, mine: list[object]) -> None:
        for _ in range(20):
            try:
                await sink.write(mine)  # type: ignore[attr-defined]
                return
            except TransientError:
                await asyncio.sleep(0.05)
        pytest.fail("never stored")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(first, [front for front, _ in pairs]))
        tasks.create_task(write(second, [back for _, back in pairs]))
    for front, _ in pairs:
        found = place.trace(front.trace_id or b"")
        assert len(found.data.spans) == 3
        metadata = found.info.trace_metadata
        assert json.loads(metadata["mlflow.trace.sizeStats"])["num_spans"] == 3
        assert json.loads(metadata["mlflow.trace.tokenUsage"])["total_tokens"] == 4
        assert found.info.state.value == "OK"


@everywhere
async def test_bisecting_finds_the_one_that_is_refused(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    batch = [five_spans() for _ in range(5)]
    batch[3] = five_spans(part=TracePart(experiment_id="31415926"))

    async def write(some: list[object]) -> list[object]:
        try:
            await sink.write(some)  # type: ignore[arg-type]
        except PoisonError:
            if len(some) == 1:
                return some
            half = len(some) // 2
            return await write(some[:half]) + await write(some[half:])
        return []

    assert await write(list(batch)) == [batch[3]]
    stored = [place.trace(one.trace_id or b"") for one in (*batch[:3], batch[4])]
    assert all(found is not None for found in stored)
