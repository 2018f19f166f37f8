"""What lies in files: a trace's attachments, and spans that MLflow has archived."""

import asyncio
import uuid
from pathlib import Path

import msgspec
import pytest
import requests
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.dbmodels.models import SqlTraceTag
from mlflow.tracing.constant import SpansLocation, TraceTagKey
from mlflow.tracing.otel.otel_archival import TRACE_ARCHIVAL_FILENAME

from spanferry_schemas import Attachment
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.retained import Desk, old, older_than

pytestmark = pytest.mark.mlflow

IMAGE = b"\x89PNG\r\n"


@pytest.fixture
async def desk(place: Place, opened: OpenSink, capsys: pytest.CaptureFixture[str]) -> Desk:
    root = {} if place.kind == "server" else {"artifact_root": str(place.artifacts)}
    return Desk(place, await opened(place.uri, **root), capsys)


@pytest.mark.parametrize("place", ["sqlite", "server"], indirect=True)
async def test_files_stay_or_go_with_their_traces(desk: Desk) -> None:
    traces = [
        msgspec.structs.replace(
            old(number, desk.experiment),
            attachments=[Attachment(str(uuid.uuid4()), "image/png", IMAGE)],
        )
        for number in range(4)
    ]
    ids = await desk.store([*traces, old(4, desk.experiment)])
    files = {trace_id: folder_of(desk.place, trace_id) for trace_id in ids[:4]}
    assert [len(list(path.rglob("*"))) > 0 for path in files.values()] == [True] * 4
    await desk.retention(older_than(1), "--yes")
    await desk.retention(older_than(3), "--yes", "--artifacts")
    assert await desk.left() == set(ids[3:])
    assert [path.exists() for path in files.values()] == [True, False, False, True]
    ended = await desk.retention(older_than(9), "--yes", "--artifacts")
    assert ended.code == 0, ended
    assert await desk.left() == set(), "those without files go all the same"


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_what_mlflow_has_archived_goes_with_its_archive_or_stays(
    desk: Desk, tmp_path: Path
) -> None:
    ids = await desk.put(3)
    archive = tmp_path / "archive" / TRACE_ARCHIVAL_FILENAME
    archive.parent.mkdir()
    archive.write_bytes(b"spans")
    for trace_id, location in ((ids[0], str(archive.parent)), (ids[1], "nowhere://bucket")):
        await asyncio.to_thread(mark_as_archived, desk.place, trace_id, location)
    ended = await desk.retention(older_than(9), "--yes")
    assert ended.code == 1
    assert f"{desk.experiment}: 1 could not be deleted: MLflow was asked to delete it" in ended.err
    assert await desk.left() == {ids[1]}
    assert not archive.exists()


def mark_as_archived(place: Place, trace_id: str, location: str) -> None:
    tags = {
        TraceTagKey.SPANS_LOCATION: SpansLocation.ARCHIVE_REPO.value,
        TraceTagKey.ARCHIVE_LOCATION: location,
    }
    with place.store.ManagedSessionMaker(read_only=False) as session:
        for key, value in tags.items():
            session.merge(SqlTraceTag(request_id=trace_id, key=key, value=value))


def folder_of(place: Place, trace_id: str) -> Path:
    """Of the trace's files; a server serves them from beside its database."""
    location: str = place.store.get_trace_info(trace_id).tags["mlflow.artifactLocation"]
    if location.startswith("mlflow-artifacts:"):
        root = Path(place.database.removeprefix("sqlite:///")).parent / "artifacts"
        return root / location.removeprefix("mlflow-artifacts:/").removesuffix("/artifacts")
    return Path(location.removeprefix("file://").removesuffix("/artifacts"))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_files_behind_a_server_that_nobody_has_named_keep_their_traces(
    database: Place, opened: OpenSink, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(database, await opened(database.uri, artifact_root="mlflow-artifacts:/"), capsys)
    ids = await desk.put(3)
    ended = await desk.retention(older_than(9), "--yes", "--artifacts")
    assert ended.code == 3
    assert "--set mlflow.artifact_server=http://" in ended.err
    assert await desk.left() == set(ids)


def status(code: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = code
    return requests.HTTPError(f"{code}", response=response)


@pytest.mark.parametrize(
    ("error", "code", "gone"),
    [
        (FileNotFoundError(2, "No such file"), 0, True),
        (status(404), 0, True),
        (status(403), 1, False),
        (PermissionError(13, "Permission denied"), 1, False),
    ],
)
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_a_trace_goes_where_it_has_no_files_and_stays_where_they_stay(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, gone: bool
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", fail)
    ids = await desk.put(1)
    ended = await desk.retention(older_than(9), "--yes", "--artifacts")
    assert (ended.code, await desk.left()) == (code, set() if gone else set(ids))
    assert gone or "1 could not be deleted: deleting the files of trace" in ended.err
