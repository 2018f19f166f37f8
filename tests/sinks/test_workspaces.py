"""MLflow's workspaces: a worker stores in the one that MLflow's environment names."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spanferry_schemas import TracePart
from spanferry_worker import cli
from spanferry_worker.errors import (
    FatalError,
    NoExperimentError,
    PartlyRefusedError,
    TraceNotFoundError,
)
from tests.sinks.conftest import OpenSink, Place, make_place
from tests.sinks.stores import dump, feedback, five_spans, late

pytestmark = pytest.mark.mlflow


@pytest.fixture
def workspaces(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[str], Any]]:
    """A database that has workspace `search` beside the default one, and its store in either."""
    from mlflow.entities.workspace import Workspace
    from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

    place: Place = make_place("sqlite", request, tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")

    def store_in(name: str) -> Any:
        monkeypatch.setenv("MLFLOW_WORKSPACE", name)
        return WorkspaceAwareSqlAlchemyStore(place.uri, str(tmp_path / "artifacts"))

    provider = store_in("default")._get_workspace_provider_instance()
    provider.create_workspace(Workspace(name="search"))
    return place.uri, store_in


async def test_traces_go_to_the_workers_workspace(
    workspaces: tuple[str, Callable[[str], Any]],
    opened: OpenSink,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri, store_in = workspaces
    theirs = store_in("default").create_experiment("of both")
    mine = store_in("search").create_experiment("of both")
    sink = await opened(uri)
    by_name = five_spans(part=TracePart(experiment="of both"))
    made = five_spans(part=TracePart(experiment="new"))
    with caplog.at_level(logging.INFO):
        await sink.write([by_name, made])
    assert not [record for record in caplog.records if "own code" in record.message]
    store = store_in("search")
    found = store.get_trace_info(f"tr-{(by_name.trace_id or b'').hex()}")
    assert found.experiment_id == mine
    assert "/workspaces/search/" in found.tags["mlflow.artifactLocation"]
    assert store.get_experiment_by_name("new").workspace == "search"
    with pytest.raises(NoExperimentError):
        await sink.write([five_spans(part=TracePart(experiment_id=theirs))])


async def test_a_workspace_that_is_not_named_or_not_there(
    workspaces: tuple[str, Callable[[str], Any]],
    opened: OpenSink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, store_in = workspaces
    store_in("search").create_experiment("x")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "elsewhere")
    with pytest.raises(FatalError, match="elsewhere"):
        await opened(uri)
    monkeypatch.delenv("MLFLOW_WORKSPACE")
    with pytest.raises(FatalError, match="MLFLOW_WORKSPACE to the workspace of these workers"):
        await opened(uri)
    monkeypatch.delenv("MLFLOW_ENABLE_WORKSPACES")
    with pytest.raises(FatalError, match="Cannot disable workspaces"):
        await opened(uri)


async def test_feedback_stays_in_its_workspace(
    workspaces: tuple[str, Callable[[str], Any]], opened: OpenSink
) -> None:
    uri, store_in = workspaces
    written: dict[str, Any] = {}
    for workspace in ("default", "search"):
        store_in(workspace)
        written[workspace] = five_spans()
        await (await opened(uri)).write([written[workspace]])
    sink = await opened(uri)
    judged = [late(one, assessments=[feedback()]) for one in written.values()]
    with pytest.raises(PartlyRefusedError) as raised:
        await sink.write(judged)
    assert {place: type(error) for place, error in raised.value.refused.items()} == {
        0: TraceNotFoundError
    }
    assert [row["trace_id"] for row in dump(uri)["assessments"]] == [
        f"tr-{(written['search'].trace_id or b'').hex()}"
    ]


async def test_retention_stays_in_its_workspace(
    workspaces: tuple[str, Callable[[str], Any]], opened: OpenSink
) -> None:
    uri, store_in = workspaces
    written: dict[str, str] = {}
    for workspace in ("default", "search"):
        store = store_in(workspace)
        store.create_experiment("of both")
        sink = await opened(uri)
        one = five_spans(part=TracePart(experiment="of both"))
        await sink.write([one])
        written[workspace] = f"tr-{(one.trace_id or b'').hex()}"
    words = ["retention", f"--tracking-uri={uri}", "--older-than=1d", "--yes", "--all-experiments"]
    assert await asyncio.to_thread(cli.main, words) == 0
    assert store_in("search").batch_get_trace_infos([written["search"]]) == []
    assert len(store_in("default").batch_get_trace_infos([written["default"]])) == 1
