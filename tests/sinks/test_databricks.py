"""Databricks, as far as MLflow's client and its protocol say what that is: the service is not to be had here.

A real `mlflow server` stands for the records. The gateway before it does what Databricks does otherwise:
spans are a file, whose address it gives for each upload; there is no OTLP and no look-up of many traces.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from spanferry_schemas import TracePart
from spanferry_worker.errors import FatalError, PartlyRefusedError, TransientError
from spanferry_worker.services.mlflow_sink import open_sink
from tests.services.mlflow import MlflowServer
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.gateway import Answer, Gateway, Seen, gateway
from tests.sinks.stores import feedback, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow

TOKEN = "canary-s3cret"
EXPERIMENT = "/Shared/traces"
FOLDER = "dbfs:/databricks/mlflow-tracking"
AWS = "AWS_PRESIGNED_URL"


class Workspace:
    """The rule of a gateway, and the files that it keeps."""

    def __init__(self, way: Gateway) -> None:
        self._way = way
        self.files: dict[str, bytes] = {}
        self.refuses: dict[str, Answer | str] = {}
        """Answers by the end of a path."""
        self.once = False
        """Whether a record is written once only."""
        self._records: set[str] = set()

    def __call__(self, seen: Seen) -> Answer | str | None:
        path = seen.path.partition("?")[0]
        if (refusal := self._refusal(seen, path)) is not None:
            return refusal
        if path == "/.well-known/databricks-config":
            return Answer(200, {"Content-Type": "application/json"}, b"{}")
        if path.startswith("/files/"):
            assert "Authorization" not in seen.headers, "an address that lets in by itself"
            return self._file(seen, path)
        assert seen.headers["Authorization"] == f"Bearer {TOKEN}"
        if "credentials-for-data" in path:
            trace_id = path.split("/")[-2]
            address = f"{self._way.uri}/files/{trace_id}?X-Amz-Signature={TOKEN}"
            info = {"signed_uri": address, "type": AWS, "headers": []}
            return Answer(200, body=json.dumps({"credential_info": info}).encode())
        if path.startswith("/v1/traces") or path.endswith("batchGetInfos") or "/api/4.0/" in path:
            error = {"error_code": "ENDPOINT_NOT_FOUND", "message": path}
            return Answer(404, body=json.dumps(error).encode())
        given = self._way.forward(seen)
        body = given.body.replace(b"mlflow-artifacts:", FOLDER.encode())
        return given._replace(body=body.replace(b"/traces/tr-", b"/tr-"))

    def _refusal(self, seen: Seen, path: str) -> Answer | str | None:
        for end, answer in self.refuses.items():
            if path.endswith(end):
                return answer
        if self.once and path.endswith("/3.0/mlflow/traces"):
            trace_id = json.loads(seen.body)["trace"]["trace_info"]["trace_id"]
            if trace_id in self._records:
                error = {"error_code": "ALREADY_EXISTS", "message": trace_id}
                return Answer(409, body=json.dumps(error).encode())
            self._records.add(trace_id)
        return None

    def _file(self, seen: Seen, path: str) -> Answer:
        if seen.method == "PUT":
            self.files[path] = seen.body
            return Answer(200)
        return Answer(200, body=self.files[path]) if path in self.files else Answer(404)

    def spans(self, trace_id: bytes | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.files[f"/files/tr-{(trace_id or b'').hex()}"]
        )["spans"]
        return found


@pytest.fixture
def workspace(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Gateway, Workspace]]:
    with gateway(mlflow_server.uri) as way:
        made = Workspace(way)
        way.rule = made
        monkeypatch.setenv("DATABRICKS_HOST", way.uri)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        monkeypatch.setenv("DATABRICKS_AUTH_TYPE", "pat")
        yield way, made


async def test_a_record_and_a_file_for_each_trace_and_late_parts_merged(
    workspace: tuple[Gateway, Workspace], stored: Place, opened: OpenSink
) -> None:
    way, made = workspace
    sink = await opened("databricks", default_experiment=EXPERIMENT)
    part = TracePart(tags={"a": "b"}, metadata={"mlflow.trace.session": "s"}, client_request_id="r")
    root, early, more = ids(3)
    front = trace([span(root), span(early, root)], part=part, complete=False)
    batch = [five_spans(part=part, assessments=[feedback()]) for _ in range(3)]
    await sink.write([*batch, front])
    for one in batch:
        info = stored.info(one.trace_id or b"")
        assert (info.state.value, info.tags["a"], info.trace_metadata["mlflow.trace.session"]) == (
            "OK", "b", "s",
        )  # fmt: skip
        assert json.loads(info.trace_metadata["mlflow.trace.sizeStats"])["num_spans"] == 5
        assert len(info.assessments) == 1
        names = {each["name"] for each in made.spans(one.trace_id)}
        assert names == {"agent", "child"}
        assert len(made.spans(one.trace_id)) == 5
    before = dict(made.files)
    written = len([one for one in way.seen if one.method == "PUT"])
    await sink.write([*batch, front])
    assert made.files == before
    assert len([one for one in way.seen if one.method == "PUT"]) == written

    await sink.write([late(front, spans=[span(more, root, at_ms=2)], part=part)])
    assert len(made.spans(front.trace_id)) == 3
    info = stored.info(front.trace_id or b"")
    assert json.loads(info.trace_metadata["mlflow.trace.sizeStats"])["num_spans"] == 3
    assert TOKEN not in repr(info)


async def test_half_of_a_batch_is_completed_and_who_is_refused_is_named(
    workspace: tuple[Gateway, Workspace], stored: Place, opened: OpenSink
) -> None:
    _, made = workspace
    sink = await opened("databricks", default_experiment=EXPERIMENT)
    batch = [five_spans() for _ in range(3)]
    second = f"tr-{(batch[1].trace_id or b'').hex()}"
    ill = Answer(500, body=b'{"error_code": "INTERNAL_ERROR", "message": "ill"}')
    made.refuses[f"{second}/credentials-for-data-upload"] = ill
    with pytest.raises(TransientError) as away:
        await sink.write(batch)
    assert TOKEN not in str(away.value)
    made.refuses.clear()
    await sink.write(batch)
    assert [len(made.spans(one.trace_id)) for one in batch] == [5, 5, 5]

    more = [five_spans() for _ in range(3)]
    made.refuses[f"/files/tr-{(more[1].trace_id or b'').hex()}"] = Answer(413)
    with pytest.raises(PartlyRefusedError) as refused:
        await sink.write(more)
    assert list(refused.value.refused) == [1]
    assert "/files/tr-" in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert [len(made.spans(one.trace_id)) for one in (more[0], more[2])] == [5, 5]


async def test_a_workspace_that_lets_nobody_in(
    workspace: tuple[Gateway, Workspace], opened: OpenSink
) -> None:
    _, made = workspace
    error = {"error_code": "UNAUTHENTICATED", "message": f"bad token {TOKEN[:6]}"}
    made.refuses["/experiments/search"] = Answer(401, body=json.dumps(error).encode())
    with pytest.raises(FatalError, match="DATABRICKS_TOKEN") as caught:
        await opened("databricks", default_experiment=EXPERIMENT)
    assert TOKEN not in str(caught.value)


async def test_of_a_record_that_is_written_once_the_rest_is_said(
    workspace: tuple[Gateway, Workspace],
    stored: Place,
    opened: OpenSink,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tags and feedback that come late are added; state and metadata, which the API does not change, are
    named in one line."""
    _, made = workspace
    made.once = True
    sink = await opened("databricks", default_experiment=EXPERIMENT)
    fronts = []
    for _ in range(2):
        root, early = ids(2)
        fronts.append(
            (root, trace([span(early, root)], part=TracePart(tags={"a": "b"}), complete=False))
        )
    await sink.write([front for _, front in fronts])
    for root, front in fronts:
        part = TracePart(tags={"a": "c", "late": "yes"}, metadata={"version": "2"})
        more = late(front, spans=[span(root, for_ms=50)], part=part, assessments=[feedback()])
        await sink.write([more])
        info = stored.info(front.trace_id or b"")
        assert (info.tags["a"], info.tags["late"]) == ("c", "yes")
        assert len(info.assessments) == 1
        assert len(made.spans(front.trace_id)) == 2
    told = [one.getMessage() for one in caplog.records if "changes no record" in one.getMessage()]
    assert len(told) == 1
    assert "version" in told[0]
    assert "execution_duration" in told[0]


async def test_a_tag_that_is_refused_is_said_too(
    workspace: tuple[Gateway, Workspace], opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    _, made = workspace
    made.once = True
    sink = await opened("databricks", default_experiment=EXPERIMENT)
    root, early = ids(2)
    front = trace([span(early, root)], complete=False)
    await sink.write([front])
    error = {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such tag"}
    made.refuses["/tags"] = Answer(400, body=json.dumps(error).encode())
    await sink.write([late(front, part=TracePart(tags={"late": "yes"}))])
    assert "tag late" in caplog.text


@pytest.mark.parametrize("uri", ["databricks-uc", "file:///x", "mssql://me:canary@db/x"])
def test_what_no_sink_serves_is_said_and_no_secret(uri: str) -> None:
    with pytest.raises(FatalError, match="cannot hold traces") as caught:
        open_sink(uri, default_experiment="x")
    assert "canary" not in str(caught.value)
