"""How often Databricks is asked: by all requests of a process together, and not while it wants to be left."""

import json
import time
from typing import Any

import pytest

from spanferry_worker.errors import TransientError
from spanferry_worker.services import mlflow_databricks
from spanferry_worker.stages.requests import RequestPace, RequestPolicy
from tests.sinks.conftest import OpenSink
from tests.sinks.gateway import Answer, Gateway, Seen
from tests.sinks.stores import five_spans
from tests.sinks.test_databricks import EXPERIMENT, Workspace, workspace

__all__ = ["workspace"]

pytestmark = pytest.mark.mlflow

BURST_S = RequestPace.BURST_S


class Clock:
    """Time that passes by sleeping only."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


@pytest.mark.parametrize("per_s", [None, 10.0])
async def test_all_requests_to_a_workspace_have_one_pace(
    workspace: tuple[Gateway, Workspace],
    opened: OpenSink,
    monkeypatch: pytest.MonkeyPatch,
    per_s: float | None,
) -> None:
    """A trace takes a look-up, a record, and two for its file: how to ask, and where to."""
    way, made = workspace
    clock = Clock()
    monkeypatch.setattr(mlflow_databricks, "time", clock)
    policy = RequestPolicy(requests_at_once_max=1, requests_per_s=per_s)
    sink = await opened("databricks", default_experiment=EXPERIMENT, http=policy)
    await sink.write([five_spans()])  # finds its experiment
    clock.now_s += 100
    at_s: list[float] = []

    def rule(seen: Seen) -> Answer | str | None:
        if not seen.path.startswith("/files/"):
            at_s.append(clock.now_s)
        return made(seen)

    way.rule = rule
    began_s = clock.now_s
    await sink.write([five_spans() for _ in range(12)])
    assert 48 <= len(at_s) <= 50
    limit = per_s or 50
    assert clock.now_s - began_s >= (48 - 1) / limit - BURST_S
    for first in at_s:
        within = sum(first <= at < first + 1 for at in at_s)
        assert within <= limit * (1 + BURST_S) + 2


@pytest.mark.parametrize("sdk", [True, False])
async def test_a_workspace_that_wants_to_be_left_alone(
    workspace: tuple[Gateway, Workspace],
    opened: OpenSink,
    monkeypatch: pytest.MonkeyPatch,
    *,
    sdk: bool,
) -> None:
    """No thread sleeps for a day, which MLflow's clients would do; nothing is asked meanwhile."""
    way, made = workspace
    monkeypatch.setenv("MLFLOW_ENABLE_DB_SDK", str(sdk).lower())
    sink = await opened("databricks", default_experiment=EXPERIMENT)
    await sink.write([five_spans()])
    error: dict[str, Any] = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slowly"}
    made.refuses["/3.0/mlflow/traces"] = Answer(
        429, {"Retry-After": "86400"}, json.dumps(error).encode()
    )
    began_s = time.monotonic()
    with pytest.raises(TransientError) as caught:
        await sink.write([five_spans()])
    assert time.monotonic() - began_s < 60
    if not sdk:
        return  # MLflow's own requests tell nobody; the writer's backoff goes on
    assert 200 < (caught.value.retry_after_s or 0) <= 300
    asked = len(way.seen)
    with pytest.raises(TransientError, match="left alone"):
        await sink.write([five_spans()])
    assert len(way.seen) == asked
