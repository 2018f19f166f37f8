"""Directories that are ours and those that are not; an environment without foreign settings."""

from pathlib import Path

import pytest

from spanferry_worker.dev.ensemble import clean_environment, prepare_directory
from spanferry_worker.dev.process import StartError


def test_a_directory_is_made_and_found_again(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "demo"
    prepare_directory(directory, fresh=True)
    (directory / "mlflow.db").write_text("rows")
    (directory / "logs" / "worker.log").write_text("old")
    (directory / "mine.txt").write_text("keep")
    prepare_directory(directory, fresh=False)
    assert (directory / "mlflow.db").exists()
    assert not (directory / "logs" / "worker.log").exists()
    prepare_directory(directory, fresh=True)
    assert not (directory / "mlflow.db").exists()
    assert (directory / "logs").is_dir()
    assert (directory / "mine.txt").exists()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("precious")
    for fresh in (True, False):
        with pytest.raises(StartError, match="not empty and not ours"):
            prepare_directory(tmp_path, fresh=fresh)
    assert (tmp_path / "mlflow.db").read_text() == "precious"
    with pytest.raises(StartError, match="is not a directory"):
        prepare_directory(tmp_path / "mlflow.db", fresh=True)


def test_settings_of_the_shell_do_not_reach_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPANFERRY_TOPIC", "MLFLOW_TRACKING_URI", "OTEL_SERVICE_NAME"):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = clean_environment({"SPANFERRY_EXPERIMENT": "ours"})
    assert "foreign" not in environment.values()
    assert environment["LANG"] == "C.UTF-8"
    assert environment["SPANFERRY_EXPERIMENT"] == "ours"
