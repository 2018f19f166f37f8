"""An app that has nobody to send to: what it does is in its account all the same."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

import spanferry
from spanferry import log
from spanferry.metrics import totals
from tests.services.process import free_port


@pytest.fixture(autouse=True)
def account_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just begun."""
    monkeypatch.setattr(log, "_said", set())
    monkeypatch.setattr(totals, "_state", ({}, None))
    monkeypatch.setattr(totals, "listeners", [])


@pytest.fixture
def enable() -> Iterator[Callable[..., None]]:
    """`spanferry.enable` without Kafka, with a buffer for some 600 small traces."""
    yield partial(
        spanferry.enable,
        bootstrap_servers=f"127.0.0.1:{free_port()}",
        record_bytes_max=500_000,
        buffer_bytes=1_000_000,
        exit_timeout_s=0.05,
        mlflow=False,
        collect_environment=False,
    )
    spanferry.disable()
