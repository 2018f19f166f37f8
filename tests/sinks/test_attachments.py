"""Attachments: sent beside a trace or taken out of its inputs, uploaded once, found by MLflow."""

import base64
import json
import re
import uuid
from typing import Any

import msgspec
import pytest
import requests

from spanferry_schemas import Attachment
from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services import mlflow_extract
from spanferry_worker.stages.sample import NO_TABLE, Action, Rule, Sampler, SamplingPolicy
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.stores import dump, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow

REFERENCE = re.compile(r"mlflow-attachment://([0-9a-f-]{36})\?[^\"]*")
IMAGE = b"\x89PNG\r\n" + bytes(range(256)) * 8
IN_BASE64 = base64.b64encode(IMAGE).decode()


def attachment(content: bytes = IMAGE) -> Attachment:
    return Attachment(str(uuid.uuid4()), "image/png", content)


def with_inputs(value: object, **fields: Any) -> AssembledTrace:
    attributes = {"mlflow.spanInputs": json.dumps(value).encode()}
    return trace([span(ids(1)[0], attributes=attributes)], **fields)


def stored(place: Place, of: AssembledTrace, attachment_id: str) -> bytes | None:
    """An attachment as MLflow's UI asks for it, or as it lies in the trace's artifact location."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    info = place.info(of.trace_id or b"")
    if place.kind == "server":
        answer = requests.get(
            f"{place.uri}/ajax-api/3.0/mlflow/get-trace-artifact",
            params={"request_id": info.trace_id, "path": attachment_id},
            timeout=120,
        )
        return answer.content if answer.ok else None
    repository: Any = get_artifact_repository(info.tags["mlflow.artifactLocation"])
    try:
        content: bytes = repository.download_trace_attachment(attachment_id)
    except MlflowException:
        return None
    return content


def uploaded(place: Place) -> dict[str, bytes]:
    """Everything below the place's artifact root that is an attachment."""
    return {path.name: path.read_bytes() for path in place.artifacts.rglob("attachments/*")}


async def opened_at(place: Place, opened: OpenSink) -> Any:
    root = {} if place.kind == "server" else {"artifact_root": str(place.artifacts)}
    return await opened(place.uri, **root)


async def test_with_the_trace_and_after_it(place: Place, opened: OpenSink) -> None:
    sink = await opened_at(place, opened)
    first, second, third = attachment(), attachment(b"second"), attachment(b"")
    whole = msgspec.structs.replace(five_spans(), attachments=[first, second])
    plain = five_spans()
    await sink.write([plain, whole])
    await sink.write([msgspec.structs.replace(late(whole), attachments=[third])])
    for one in (first, second, third):
        assert stored(place, whole, one.attachment_id) == one.data
        assert stored(place, plain, one.attachment_id) is None
    before = dump(place.database)
    await sink.write([whole, plain])
    assert dump(place.database) == before
    assert len(place.trace(whole.trace_id or b"").data.spans) == 5


async def test_base64_is_replaced_and_uploaded(place: Place, opened: OpenSink) -> None:
    sink = await opened_at(place, opened)
    given = {"n": 1.5, "ünï": ["\ud800", f"data:image/png;base64,{IN_BASE64}"]}
    one = with_inputs(given)
    await sink.write([one])
    await sink.write([one])
    (found,) = place.trace(one.trace_id or b"").data.spans
    trace_id = "tr-" + (one.trace_id or b"").hex()
    reference = found.inputs["ünï"][1]
    match = REFERENCE.fullmatch(reference)
    assert match is not None
    assert reference.endswith(f"?content_type=image%2Fpng&trace_id={trace_id}&size={len(IMAGE)}")
    assert found.inputs == {"n": 1.5, "ünï": ["\ufffd", reference]}
    assert stored(place, one, match[1]) == IMAGE
    info = place.info(one.trace_id or b"")
    assert match[1] in info.request_preview
    assert match[1] in info.trace_metadata["mlflow.traceInputs"]


async def test_a_replay_after_a_failed_upload(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    sink = await opened_at(database, opened)
    one = with_inputs([f"data:image/png;base64,{IN_BASE64}", {"b64_json": IN_BASE64[:-8]}])
    given = msgspec.structs.replace(one, attachments=[attachment(b"given")])
    errors: list[Exception] = [
        requests.ConnectionError("reset by peer"),
        OSError(28, "No space left on device"),
        RuntimeError("ReadTimeoutError on endpoint URL"),
    ]

    def fails(*_: object, **__: object) -> None:
        raise errors[0]

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", fails)
        while errors:
            with pytest.raises(TransientError, match="uploading an attachment"):
                await sink.write([given])
            errors.pop(0)
    await sink.write([given])
    (found,) = database.trace(one.trace_id or b"").data.spans
    names = REFERENCE.findall(json.dumps(found.inputs))
    assert set(uploaded(database)) == {*names, given.attachments[0].attachment_id}
    assert len(set(names)) == 2


async def test_a_place_that_refuses_is_poison_with_the_remedy(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    sink = await opened_at(database, opened)
    one = msgspec.structs.replace(five_spans(), attachments=[attachment()])

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalArtifactRepository, "log_artifact", refuses)
    with pytest.raises(PoisonError, match="MLFLOW_TRACE_EXTRACT_ATTACHMENTS"):
        await sink.write([one])
    assert len(database.trace(one.trace_id or b"").data.spans) == 5, "the trace itself is there"


async def test_artifacts_behind_a_server_whose_address_is_not_known(
    database: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture, other_server: Any
) -> None:
    sink = await opened(database.uri, artifact_root="mlflow-artifacts:/")
    assert "mlflow.artifact_server" in caplog.text
    uri = f"data:image/png;base64,{IN_BASE64}"
    one = with_inputs([uri])
    await sink.write([one])
    assert database.trace(one.trace_id or b"").data.spans[0].inputs == [uri]
    given = msgspec.structs.replace(five_spans(), attachments=[attachment()])
    with pytest.raises(PoisonError, match="uploading an attachment"):
        await sink.write([given])

    caplog.clear()
    server = other_server(503, "not now")
    known = await opened(database.uri, artifact_root="mlflow-artifacts:/", artifact_server=server)
    assert "mlflow.artifact_server" not in caplog.text
    with pytest.raises(TransientError, match="uploading an attachment"):
        await known.write([given])


async def test_mlflow_s_switch_leaves_base64_in_its_place(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_EXTRACT_ATTACHMENTS", "false")
    sink = await opened_at(database, opened)
    uri = f"data:image/png;base64,{IN_BASE64}"
    one = with_inputs(uri)
    await sink.write([one])
    assert database.trace(one.trace_id or b"").data.spans[0].inputs == uri
    assert uploaded(database) == {}


async def test_above_mlflow_s_limit_it_is_left_out_and_said(
    database: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_MAX_ATTACHMENT_SIZE", "100")
    sink = await opened_at(database, opened)
    small = f"data:image/gif;base64,{base64.b64encode(b'GIF').decode()}"
    one = with_inputs([f"data:image/png;base64,{IN_BASE64}", small])
    await sink.write([one])
    await sink.write([one])
    (found,) = database.trace(one.trace_id or b"").data.spans
    said = f"Attachment too large ({len(IMAGE)} bytes > 100 bytes limit). Content discarded."
    assert found.inputs[0] == f"[Attachment too large: {len(IMAGE)} bytes exceeds 100 bytes limit]"
    assert found.status.status_code.value == "ERROR"
    assert found.status.description == f"Exception: {said}"
    assert [event.attributes["exception.message"] for event in found.events] == [said]
    assert list(uploaded(database).values()) == [b"GIF"]
    assert database.info(one.trace_id or b"").state.value == "ERROR"


async def test_what_sampling_has_cut_is_not_uploaded(database: Place, opened: OpenSink) -> None:
    sink = await opened_at(database, opened)
    uri = f"data:image/png;base64,{IN_BASE64}"
    small = f"data:image/gif;base64,{base64.b64encode(b'GIF').decode()}"
    cut_away, kept = with_inputs(uri, part=None), with_inputs({"icon": small})
    sampler = Sampler(SamplingPolicy(rules=[Rule(name="all", action=Action.SKELETON)]))
    for one in (cut_away, kept):
        sampled = sampler.apply(one, sampler.decide(one, NO_TABLE)).trace
        assert sampled is not None
        await sink.write([sampled])
    (found,) = database.trace(cut_away.trace_id or b"").data.spans
    assert found.inputs.startswith("data:image/png;base64,")
    assert found.inputs.endswith("…")
    (icon,) = database.trace(kept.trace_id or b"").data.spans
    match = REFERENCE.fullmatch(icon.inputs["icon"])
    assert match is not None
    assert uploaded(database) == {match[1]: b"GIF"}


def test_an_ordinary_trace_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = five_spans()
    monkeypatch.setattr(mlflow_extract.json, "loads", lambda _: pytest.fail("decoded"))
    assert mlflow_extract.extract(one) is one


@pytest.mark.parametrize(
    "text",
    [
        b'"data:image/png;base64,not base64!"',
        b'{"type": "image", "source": {"type": "base64", "data": 5}}',
        b'"in prose: base64"',
        b'{"audio": {"data": "mlflow-attachment://known"}}',
        b'{"b64_json": "' + b"A" * 5 + b'"}',
        b'no json, "base64"',
        b"[" * 100_000 + b'"base64"',
    ],
)
def test_what_is_no_base64_stays_as_it_is(text: bytes) -> None:
    one = trace([span(ids(1)[0], attributes={"mlflow.spanInputs": text})])
    assert mlflow_extract.extract(one) is one


def test_other_attributes_are_not_looked_at() -> None:
    value = f'"data:image/png;base64,{IN_BASE64}"'.encode()
    one = trace([span(ids(1)[0], attributes={"image": value})])
    assert mlflow_extract.extract(one) is one


def test_ids_follow_from_trace_span_and_content() -> None:
    value = f"data:image/png;base64,{IN_BASE64}"
    one = with_inputs([value, value, {"b64_json": base64.b64encode(b"other").decode()}])
    again = mlflow_extract.extract(
        msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=AssembledTrace)
    )
    first = mlflow_extract.extract(one)
    assert first == again
    assert [a.data for a in first.attachments] == [IMAGE, b"other"]
    elsewhere = mlflow_extract.extract(with_inputs([value]))
    assert elsewhere.attachments[0].attachment_id != first.attachments[0].attachment_id
