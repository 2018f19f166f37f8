"""MLflow's API goes through spanferry, on light spans and on MLflow's own."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from spanferry import log
from spanferry.settings import Settings
from spanferry.testing import capture

NOWHERE = "captured.invalid:9092"


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What should not be asked for at all would be found empty here."""
    monkeypatch.setattr(log, "_said", set())
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/untouched.db")


@pytest.fixture(params=[True, False], ids=["light", "plain"])
def accelerate(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def captured(accelerate: bool) -> Iterator[capture]:
    """Both ways."""
    with capture(Settings(bootstrap_servers=NOWHERE, accelerate=accelerate)) as outlet:
        yield outlet


@pytest.fixture
def light() -> Iterator[capture]:
    """Light spans only."""
    with capture(Settings(bootstrap_servers=NOWHERE)) as outlet:
        yield outlet
