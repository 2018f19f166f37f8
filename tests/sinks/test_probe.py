"""What `probe` says, and that it leaves everything as it is."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from spanferry_worker.services.mlflow_probe import probe
from tests.services.process import free_port
from tests.sinks.conftest import Place, everywhere

pytestmark = pytest.mark.mlflow


@everywhere
def test_all_is_well(place: Place) -> None:
    experiments = len(place.store.search_experiments())
    found = probe(place.uri, default_experiment="probed")
    assert all(finding.good for finding in found), found
    assert "will be made" in found[-1].text
    assert len(place.store.search_experiments()) == experiments
    last = probe(place.uri, default_experiment="probed", create_experiments=False)[-1]
    assert not last.good
    assert "mlflow.create_experiments is off" in last.text

    experiment_id = place.store.create_experiment("probed")
    assert f"is there ({experiment_id})" in probe(place.uri, default_experiment="probed")[-1].text
    place.store.delete_experiment(experiment_id)
    last = probe(place.uri, default_experiment="probed")[-1]
    assert not last.good
    assert f"--experiment-id {experiment_id}" in last.text
    place.store.restore_experiment(experiment_id)
    place.store.rename_experiment(experiment_id, f"was probed {experiment_id}")


def test_nothing_there(tmp_path: Path) -> None:
    for uri in (
        f"http://127.0.0.1:{free_port()}",
        f"postgresql://u:secret@127.0.0.1:{free_port()}/x",
        "file:///tmp",
        "databricks",
    ):
        (finding,) = probe(uri, default_experiment="x")
        assert not finding.good
        assert "secret" not in finding.text


def test_nothing_in_it_yet(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    (finding,) = probe(f"sqlite:///{path}", default_experiment="x")
    assert finding.good
    assert finding.empty
    assert "not there yet" in finding.text
    assert not path.exists()

    path.touch()
    found = probe(f"sqlite:///{path}", default_experiment="x")
    assert found[-1].empty
    assert not path.stat().st_size

    (finding,) = probe(f"sqlite:///{tmp_path}/no/folder.db", default_experiment="x")
    assert not finding.good


def test_a_foreign_database(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.commit()
    connection.close()
    found = probe(f"sqlite:///{tmp_path}/other.db", default_experiment="x")
    assert "none of MLflow's" in found[-1].text


def test_missing_rights(postgres_template: Callable[[], str]) -> None:
    uri = postgres_template()
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute("CREATE ROLE prober LOGIN")
        owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO prober")
        found = probe(uri.replace("postgres@", "prober@"), default_experiment="x")
        refused = [finding.text for finding in found if not finding.good]
        assert len(refused) == 1
        assert "grant the worker's user INSERT and UPDATE" in refused[0]
        owner.execute("DROP OWNED BY prober")
        owner.execute("DROP ROLE prober")
