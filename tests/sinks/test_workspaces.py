"""MLflow's workspaces: a worker stores in the one that MLflow's environment names."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spanferry_schemas import TracePart
from spanferry_worker.errors import FatalError, NoExperimentError
from tests.sinks.conftest import OpenSink, Place, make_place
from tests.sinks.stores import five_spans

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(120)]


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
