"""What a tracking server, its UI and MLflow's own clients make of archived traces."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from spanferry_worker.stages.trace import AssembledTrace
from tests.services.mlflow import MlflowServer
from tests.sinks.archives import (
    LOCATION,
    LONG,
    files,
    is_archived,
    large,
    name,
    policy,
    told,
)
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.stores import feedback, five_spans

pytestmark = pytest.mark.mlflow


@pytest.fixture
def client(mlflow_server: MlflowServer) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_server.uri)
    yield MlflowClient(mlflow_server.uri)
    mlflow.set_tracking_uri(before)


def unnamed(value: Any, of: AssembledTrace) -> Any:
    """Plain values without the trace's id, in each way to write it."""
    text = json.dumps(value, sort_keys=True, default=str)
    trace_id = of.trace_id or b""
    for one in (trace_id.hex(), base64.b64encode(trace_id).decode()):
        text = text.replace(one, "")
    return json.loads(text)


async def test_clients_and_the_ui_read_them_as_any_other(
    mlflow_server: MlflowServer, client: MlflowClient, opened: OpenSink, tmp_path: Path
) -> None:
    """The server's artifacts lie behind `mlflow-artifacts:/`, as is its default; the archive does not."""
    uri = mlflow_server.backend_uri
    archiving = await opened(uri, default_experiment="archive", archive=policy(tmp_path))
    plain = await opened(uri, default_experiment="archive")
    away = large()
    here = large(spans=away.spans)
    small = five_spans()
    await plain.write([here, small])
    await archiving.write([away])
    assert len(files(tmp_path)) == 1

    found = client.get_trace(name(away))
    assert found.info.tags[LOCATION] == "ARCHIVE_REPO"
    assert found.data.spans[0].outputs == [LONG, None, 1.5, True]
    native = client.get_trace(name(here))
    assert unnamed(told(found), away) == unnamed(told(native), here)

    experiment = client.get_experiment_by_name("archive")
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    listed = mlflow.search_traces(
        locations=[experiment.experiment_id], include_spans=True, return_type="list"
    )
    by_id = {one.info.trace_id: one for one in listed}
    assert set(by_id) == {name(away), name(here), name(small)}
    assert told(by_id[name(away)]) == told(found)

    def asked(path: str, **params: Any) -> Any:
        answer = requests.get(f"{mlflow_server.uri}/{path}", params=params, timeout=120)
        assert answer.ok, answer.text
        return answer.json()

    for path in (
        "ajax-api/3.0/mlflow/get-trace-artifact",
        "ajax-api/2.0/mlflow/get-trace-artifact",
    ):
        ui = [asked(path, request_id=name(one))["spans"] for one in (away, here)]
        assert unnamed(ui[0], away) == unnamed(ui[1], here)
    got = [asked("api/3.0/mlflow/traces/get", trace_id=name(one)) for one in (away, here)]
    assert unnamed(got[0]["trace"]["spans"], away) == unnamed(got[1]["trace"]["spans"], here)
    batch = asked("api/3.0/mlflow/traces/batchGet", trace_ids=[name(away), name(small)])
    assert len(batch["traces"]) == 2


async def test_feedback_and_tags_by_mlflows_api(
    mlflow_server: MlflowServer, client: MlflowClient, opened: OpenSink, tmp_path: Path
) -> None:
    sink = await opened(mlflow_server.backend_uri, archive=policy(tmp_path))
    one = large()
    await sink.write([one])
    client.set_trace_tag(name(one), "seen", "yes")
    mlflow.log_feedback(trace_id=name(one), name="good", value=True)
    await sink.write([large(trace_id=one.trace_id, spans=one.spans, assessments=[feedback()])])
    found = client.get_trace(name(one))
    assert found.info.tags["seen"] == "yes"
    assert len(found.info.assessments) == 2
    assert found.info.tags[LOCATION] == "ARCHIVE_REPO"


async def test_automatic_evaluation_reads_them_and_their_neighbours(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    """The reason why it is MLflow's archive and not `traces.json` beside the attachments: one trace of
    that kind, and MLflow's judges read none of those that they ask for together with it."""
    from mlflow.exceptions import MlflowTracingException
    from mlflow.genai.scorers.online.trace_loader import OnlineTraceLoader

    sink = await opened(database.uri, archive=policy(tmp_path))
    away, small = large(), five_spans()
    await sink.write([away, small])
    assert is_archived(database, away)
    loader = OnlineTraceLoader(database.store)
    found = loader.fetch_traces([name(away), name(small)])
    assert [len(one.data.spans) for one in found] == [2, 5]

    database.store.set_trace_tag(name(away), LOCATION, "ARTIFACT_REPO")
    with pytest.raises(MlflowTracingException, match="not stored in tracking store"):
        loader.fetch_traces([name(away), name(small)])
