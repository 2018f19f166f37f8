"""An app with spanferry enabled, but without Kafka."""

from collections.abc import Iterator

import pytest

from spanferry import bridge, log, opening
from spanferry.testing import capture


@pytest.fixture(autouse=True)
def without_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """spanferry's own spans, also where a test has imported MLflow to compare them with."""
    monkeypatch.setattr(bridge, "switch_on", lambda *, accelerate: None)


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been said once yet."""
    monkeypatch.setattr(log, "_said", set())
    monkeypatch.setattr(opening, "_complained", False)
    monkeypatch.setattr(opening, "_defaults", None)


@pytest.fixture
def captured(unsaid: None) -> Iterator[capture]:
    """What spanferry would send while the test runs."""
    with capture() as outlet:
        yield outlet
