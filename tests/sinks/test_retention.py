"""`spanferry retention` on real stores, and one contract for them and the double of the unit tests."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from spanferry_schemas import TraceState
from spanferry_worker.services.mlflow_retention import MlflowTraces
from spanferry_worker.stages.retention import Selection
from tests.sinks.conftest import OpenSink, Place, everywhere, make_place
from tests.sinks.retained import START_MS, STEP_MS, Desk, named, old, older_than, remains
from tests.sinks.stores import feedback
from tests.worker.retention.double import MemoryTraces, Terminal, stored

pytestmark = pytest.mark.mlflow

STATES = (TraceState.OK, TraceState.ERROR, TraceState.IN_PROGRESS)


@pytest.fixture
async def desk(place: Place, opened: OpenSink, capsys: pytest.CaptureFixture[str]) -> Desk:
    root = {} if place.kind == "server" else {"artifact_root": str(place.artifacts)}
    return Desk(place, await opened(place.uri, **root), capsys)


class Contract(NamedTuple):
    """A table with seven traces of one experiment and one of another."""

    table: Any
    experiment_id: str
    ids: list[str]
    other: tuple[str, str]
    """Experiment and trace."""


SEVEN = [
    {"state": STATES[number % 3], "tags": {"n": f"v{number}", "odd": str(number % 2)}}
    for number in range(7)
]


@pytest.fixture(params=["memory", "sqlite", "postgres", "mariadb", "server"])
async def contract(
    request: pytest.FixtureRequest, tmp_path: Path, opened: OpenSink
) -> AsyncIterator[Contract]:
    if request.param == "memory":
        memory = MemoryTraces()
        traces = [
            stored(
                number,
                START_MS + number * STEP_MS,
                state=one["state"].name,
                tags=one["tags"],
                assessed=number == 2,
            )
            for number, one in enumerate(SEVEN)
        ]
        memory.put("1", *traces)
        memory.put("2", stored(50, START_MS))
        ids = [one.trace_id for one in traces]
        yield Contract(memory, "1", ids, ("2", stored(50).trace_id))
        return
    place = make_place(request.param, request, tmp_path)
    sink = await opened(place.uri)
    name = f"e-{uuid.uuid4().hex[:8]}"
    written = [old(number, name, **one) for number, one in enumerate(SEVEN)]
    written[2].assessments.append(feedback(written[2].trace_id))
    another = old(0, f"{name}-other")
    await sink.write([*written, another])
    table = await asyncio.to_thread(MlflowTraces, place.uri)
    mine, other = [
        await asyncio.to_thread(table.experiment, each) for each in (name, f"{name}-other")
    ]
    yield Contract(
        table, mine.experiment_id, list(map(named, written)), (other.experiment_id, named(another))
    )
    await asyncio.to_thread(table.close)
    place.close()


def check_contract(given: Contract) -> None:
    table, experiment_id, ids, (other_id, other) = given
    everything = Selection(before_ms=START_MS + 7 * STEP_MS)
    pages, token = [], None
    while True:
        page, token = table.search(experiment_id, everything.condition(), 3, token)
        pages.append([one.trace_id for one in page])
        if token is None:
            break
    assert pages == [ids[:3], ids[3:6], ids[6:]]
    found, _ = table.search(experiment_id, everything.condition(), 2, newest_first=True)
    assert [one.trace_id for one in found] == [ids[6], ids[5]]
    found, _ = table.search(experiment_id, everything.condition(), 9)
    assert [one.time_ms for one in found] == [START_MS + n * STEP_MS for n in range(7)]
    assert [one.state for one in found] == [state.name for state in (*STATES, *STATES, STATES[0])]
    assert [one.assessed for one in found] == [number == 2 for number in range(7)]
    for one, trace in zip(SEVEN, found, strict=True):
        assert one["tags"].items() <= trace.tags.items()

    def asked(from_ms: int | None = None, **fields: Any) -> list[str]:
        selection = Selection(**{"before_ms": everything.before_ms, **fields})
        condition = selection.condition(from_ms)
        page, _ = table.search(experiment_id, condition, 9)
        assert table.count(experiment_id, condition) == len(page)
        return [one.trace_id for one in page]

    assert asked(before_ms=START_MS + 3 * STEP_MS) == ids[:3], "what starts at that very time stays"
    assert asked(from_ms=START_MS + 5 * STEP_MS) == ids[5:]
    assert asked(states=("ERROR",)) == [ids[1], ids[4]]
    assert asked(states=("OK", "IN_PROGRESS")) == [ids[0], ids[2], ids[3], ids[5], ids[6]]
    assert asked(tags=(("n", "v4"),)) == [ids[4]]
    assert asked(tags=(("n", "v4"), ("odd", "1"))) == []
    assert asked(before_ms=1) == []

    assert table.there([*ids[:2], f"tr-{0:032x}"]) == set(ids[:2])
    assert table.delete(other_id, ids[:2]) == 0, "only of that experiment"
    assert table.delete(experiment_id, [*ids[:2], other]) == 2
    assert table.delete(experiment_id, ids[:2]) == 0
    assert table.there([*ids, other]) == {*ids[2:], other}


async def test_the_contract_of_a_table(contract: Contract) -> None:
    await asyncio.to_thread(check_contract, contract)


@everywhere
async def test_a_dry_run_says_what_would_go_and_deletes_nothing(desk: Desk) -> None:
    ids = await desk.put(12)
    ended = await desk.retention(older_than(10), "--dry-run")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[0].startswith("traces that started before 2025-10-09T08:53:30Z")
    name, _, count, oldest, newest = lines[2].split()
    assert (name, count) == (desk.experiment, "10")
    assert (oldest, newest) == ("2025-10-09T08:53:20Z", "2025-10-09T08:53:29Z")
    assert lines[3] == "10 traces to delete"
    assert await desk.left() == set(ids)


@everywhere
async def test_what_is_old_goes_with_all_its_rows_and_a_second_run_finds_nothing(
    desk: Desk,
) -> None:
    traces = [old(number, desk.experiment) for number in range(30)]
    for one in traces[::10]:
        one.assessments.append(feedback(one.trace_id))
    ids = await desk.store(traces)
    ended = await desk.retention(older_than(25), "--yes", "--batch-size=7")
    assert ended.code == 0, ended
    assert ended.out.splitlines()[-1] == "25 traces deleted in all"
    assert await desk.left() == set(ids[25:])
    assert await remains(desk.place) == {}
    again = await desk.retention(older_than(25), "--yes")
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[-1] == "0 traces to delete"


@pytest.mark.parametrize("place", ["sqlite", "server"], indirect=True)
async def test_filters_and_what_is_kept(desk: Desk) -> None:
    name = desk.experiment
    plain = await desk.store([old(number, name, tags={"env": "dev"}) for number in range(4)])
    rated = old(5, name, tags={"env": "dev"})
    rated.assessments.append(feedback(rated.trace_id))
    [assessed] = await desk.store([rated])
    [pinned] = await desk.store([old(6, name, tags={"env": "dev", "keep": "legal"})])
    [failed] = await desk.store([old(7, name, tags={"env": "dev"}, state=TraceState.ERROR)])
    [other] = await desk.store([old(8, name, tags={"env": "prod", "name": "x"})])
    words = [older_than(100), "--tag=env=dev", "--state=OK", "--keep-tag=keep", "--keep-assessed"]
    found = json.loads((await desk.retention(*words, "--dry-run", "--json")).out)
    assert (found["traces"], found["experiments"][0]["kept"]) == (4, 2)
    done = json.loads((await desk.retention(*words, "--yes", "--json")).out)
    assert (done["deleted"], done["experiments"][0]["kept"]) == (4, 2)
    assert await desk.left() == {assessed, pinned, failed, other}
    assert plain
    # MLflow's own filter takes this key for the trace's name.
    await desk.retention(older_than(100), "--tag=name=x", "--yes")
    assert await desk.left() == {assessed, pinned, failed}


@pytest.mark.parametrize("place", ["sqlite", "server"], indirect=True)
async def test_at_most_so_many_the_oldest(desk: Desk) -> None:
    ids = await desk.put(20)
    ended = await desk.retention(older_than(100), "--yes", "--max-traces=8", "--batch-size=3")
    assert (ended.code, ended.out.splitlines()[-1]) == (
        0,
        "stopped at --max-traces: there may be more",
    )
    assert await desk.left() == set(ids[8:])


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_it_asks_before_it_deletes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await desk.put(3)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    ended = await desk.retention(older_than(2))
    assert (ended.code, await desk.left()) == (1, set(ids))
    assert ended.out.endswith("Delete them for good? [y/N] nothing was deleted\n")
    assert "2 traces to delete" in ended.out
    assert "stay (see --artifacts)" in ended.out
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    ended = await desk.retention(older_than(2))
    assert (ended.code, await desk.left()) == (0, {ids[2]})
    ended = await desk.retention(older_than(2))
    assert "Delete them" not in ended.out, "there is nothing to ask for"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_all_experiments_but_some(
    database: Place, opened: OpenSink, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(database, await opened(database.uri), capsys)
    names = ["a", "b", "gone", "42"]
    stored_ids = {
        name: (await desk.store([old(number, name) for number in range(3)]))[0] for name in names
    }
    store = database.store
    gone = store.get_experiment_by_name("gone").experiment_id
    await asyncio.to_thread(store.delete_experiment, gone)
    words = ["--all-experiments", older_than(9), "--pause=0", "--json"]
    found = json.loads((await desk.run(*words, "--dry-run", "--except-experiment=b")).out)
    counts = {one["name"]: one["traces"] for one in found["experiments"]}
    assert counts["a"] == counts["42"] == 3
    assert {"b", "gone"}.isdisjoint(counts)
    found_text = (await desk.run("--all-experiments", older_than(9), "--dry-run")).out
    assert found_text.splitlines()[-2].startswith("9 traces to delete, in 3 of 4 experiments")
    done = json.loads((await desk.run(*words, "--yes", "--except-experiment=b")).out)
    assert done["deleted"] == 6
    left = {name for name, trace_id in stored_ids.items() if there(database, trace_id)}
    assert left == {"b", "gone"}
    await desk.run(f"--experiment={gone}", older_than(9), "--yes")
    assert not there(database, stored_ids["gone"]), "a deleted experiment that is named is served"


def there(place: Place, trace_id: str) -> bool:
    return bool(place.store.batch_get_trace_infos([trace_id]))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_name_that_is_another_s_id_is_not_guessed_at(
    database: Place, opened: OpenSink, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(database, await opened(database.uri), capsys)
    await desk.store([old(0, "first")])
    taken = database.store.get_experiment_by_name("first").experiment_id
    await desk.store([old(0, taken)])
    ended = await desk.run(f"--experiment={taken}", older_than(9), "--yes")
    assert ended.code == 3
    assert "give the name of the one or the id of the other" in ended.err
    ended = await desk.run("--experiment=nobody", older_than(9), "--yes")
    assert (ended.code, ended.err) == (
        3,
        "spanferry retention: there is no experiment of the name or id 'nobody'\n",
    )


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_who_may_not_delete_is_told_so_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await desk.put(3)
    calls: list[str] = []

    def refuse(*_: object, **__: object) -> int:
        calls.append("delete")
        raise MlflowException("MANAGE is needed", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(SqlAlchemyStore, "delete_traces", refuse)
    ended = await desk.retention(older_than(9), "--yes")
    assert (ended.code, calls) == (3, ["delete"])
    assert f"{desk.experiment}: stopped: deleting traces of experiment" in ended.err
    assert "MLflow does not let this user: MANAGE is needed" in ended.err
    assert await desk.left() == set(ids)


@pytest.fixture
def nothing_is_made(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "nowhere.db"
    assert not (tmp_path / "nowhere.db").exists()


async def test_places_where_no_mlflow_is(
    nothing_is_made: Path, tmp_path: Path, other_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    for uri, code, said in (
        (f"sqlite:///{nothing_is_made}", 3, "there is no database"),
        (f"sqlite:///{empty}", 3, "it has none of MLflow's tables"),
        (other_server(403, "no"), 3, "refuses the worker's credentials"),
        (other_server(200, "hello"), 3, "is not an MLflow server"),
        ("http://127.0.0.1:9", 3, "no MLflow server answers at http://127.0.0.1:9"),
        ("databricks", 3, "MlflowClient.delete_traces does it"),
        ("postgresql://u:s3cret@127.0.0.1:9/x", 3, "does not answer"),
    ):
        place = Place("none", uri, uri, tmp_path)
        ended = await Desk(place, None, capsys).run("--all-experiments", older_than(9), "--yes")  # type: ignore[arg-type]
        assert (ended.code, ended.out) == (code, ""), ended
        assert said in ended.err
        assert "s3cret" not in ended.err
