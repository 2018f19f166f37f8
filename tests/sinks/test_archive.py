"""Large traces in MLflow's archive: read as those in the database, never lost between the two."""

import logging
from pathlib import Path
from typing import Any

import pytest

from spanferry_schemas import TracePart
from spanferry_worker.errors import FatalError, SettingsError, TransientError
from spanferry_worker.services.mlflow_bulk import BulkInsert
from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.settings import load_settings
from spanferry_worker.stages.archive import ArchivePolicy
from tests.sinks.archives import PLACE, files, is_archived, large, name, policy, told
from tests.sinks.conftest import DATABASES, OpenSink, Place, every_database, make_place
from tests.sinks.stores import dump, feedback, five_spans, ids, late, span
from tests.sinks.test_bulk import traces

pytestmark = pytest.mark.mlflow


@pytest.mark.parametrize(
    ("kind", "bulk"), [*((kind, True) for kind in DATABASES), ("sqlite", False)]
)
async def test_whatever_is_archived_reads_as_what_is_not(
    kind: str, bulk: bool, opened: OpenSink, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = {**traces(), "large": large(assessments=[feedback()])}
    found: list[dict[str, Any]] = []
    for archived in (False, True):
        folder = tmp_path / str(archived)
        folder.mkdir()
        place = make_place(kind, request, folder)
        options = {"archive": policy(folder, 1)} if archived else {}
        sink = await opened(place.uri, bulk=bulk, **options)
        await sink.write(list(made.values()))
        found.append(
            {
                key: told(place.store.get_trace(name(one), allow_partial=True))
                for key, one in made.items()
            }
        )
        if archived:
            away = {key for key, one in made.items() if is_archived(place, one)}
        place.close()
    for key in made:
        assert found[1][key] == found[0][key], key
    assert set(made) - away == {"without a root", "open", "not json"}, (
        "what goes on, what is too deep"
    )


async def test_below_the_border_a_trace_stays_in_the_database(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    plain = await opened(database.uri)
    small, big = five_spans(), large()
    await plain.write([small])
    size = int(database.info(small.trace_id or b"").trace_metadata["mlflow.trace.sizeBytes"])
    sink = await opened(database.uri, archive=policy(tmp_path, size))
    await sink.write([five_spans(), big])
    assert [row["value"] for row in dump(database.uri)["trace_tags"] if row["key"] == PLACE] == [
        (tmp_path / "archive" / next(iter(files(tmp_path)))).parent.as_uri()
    ]
    assert is_archived(database, big)


@every_database
async def test_what_a_search_still_finds(database: Place, opened: OpenSink, tmp_path: Path) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path), default_experiment="here")
    one = large(part=TracePart(tags={"team": "web"}, metadata={"m": "1"}))
    late_one = large()
    await sink.write([one, late_one])
    await sink.write([late(late_one, spans=[span(ids(1)[0], one.spans[1].span_id)])])
    experiment = database.store.get_experiment_by_name("here").experiment_id

    def found(condition: str) -> set[str]:
        infos, _ = database.store.search_traces(locations=[experiment], filter_string=condition)
        return {info.trace_id for info in infos}

    both = {name(one), name(late_one)}
    for condition in (
        "span.name = 'look up'",
        "span.type = 'CHAIN'",
        "span.status = 'OK'",
        "status = 'OK'",
        "trace.execution_time_ms = 10",
    ):
        assert found(condition) == both, condition
    assert found("tag.team = 'web'") == {name(one)}
    # the rows of a trace that went there at once keep the beginnings of its attributes ...
    for condition in (
        "span.attributes.tier LIKE '%gold%'",
        "span.content LIKE '%how tall%'",
        "trace.text LIKE '%a long answer%'",
    ):
        assert found(condition) == {name(one)}, condition
    # ... and what comes later in them is not found, as with all that MLflow itself has archived
    assert found("span.content LIKE '%true%'") == set()


@every_database
async def test_a_replay_changes_no_row_and_no_file(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path))
    batch = [
        large(),
        five_spans(),
        large(part=TracePart(tags={"a": "b"}), assessments=[feedback()]),
    ]
    batch.append(large(complete=False))
    await sink.write(batch)
    once, there = dump(database.uri), files(tmp_path)
    assert len(there) == 3
    await sink.write(batch)
    await sink.write(batch[::-1])
    other = await opened(database.uri)
    await other.write(batch)
    assert dump(database.uri) == once
    assert files(tmp_path) == there


async def test_a_crash_between_upload_and_row(
    database: Place, opened: OpenSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path))
    one = large()
    seen: list[int] = []

    def dies(*_: object) -> None:
        seen.append(len(files(tmp_path)))
        raise TransientError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(BulkInsert, "insert", dies)
        with pytest.raises(TransientError):
            await sink.write([one])
    assert seen == [1], "the file is there before the row"
    assert dump(database.uri)["trace_info"] == []
    left = files(tmp_path)
    await sink.write([one])
    assert files(tmp_path) == left
    assert len(database.trace(one.trace_id or b"").data.spans) == 2


@pytest.mark.parametrize("bulk", [True, False])
async def test_an_archive_that_is_away_and_comes_back(
    bulk: bool,
    database: Place,
    opened: OpenSink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import requests
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    sink = await opened(database.uri, archive=policy(tmp_path), bulk=bulk)
    batch = [large(), five_spans(), large()]
    errors: list[Exception] = [
        requests.ConnectionError("reset by peer"),
        OSError(28, "No space left on device"),
        RuntimeError("ReadTimeoutError on endpoint URL"),
    ]
    for error in errors:

        def fails(*_: object, **__: object) -> None:
            raise error  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(LocalArtifactRepository, "log_artifact", fails)
            with pytest.raises(TransientError, match="archiving the spans of trace"):
                await sink.write(batch)
    await sink.write(batch)
    assert [is_archived(database, one) for one in batch] == [True, False, True]
    for one in batch:
        assert len(database.trace(one.trace_id or b"").data.spans) == len(one.spans)


async def test_an_archive_that_refuses_leaves_spans_in_the_database(
    database: Place,
    opened: OpenSink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    sink = await opened(database.uri, archive=policy(tmp_path))

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", refuses)
        one = large()
        await sink.write([one, large()])
    assert not is_archived(database, one)
    assert len(database.trace(one.trace_id or b"").data.spans) == 2
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len([r for r in warnings if "archive.location" in r.getMessage()]) == 1
    await sink.write([one])
    assert is_archived(database, one)


async def test_mlflow_deletes_the_file_with_the_trace(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    sink = await opened(database.uri, archive=policy(tmp_path), default_experiment="here")
    one = large()
    await sink.write([one, large()])
    experiment = database.store.get_experiment_by_name("here").experiment_id
    assert database.store.delete_traces(experiment, trace_ids=[name(one)]) == 1
    assert len(files(tmp_path)) == 1
    assert len(dump(database.uri)["trace_info"]) == 1


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/data/traces", "is no URI"),
        ("mlflow-artifacts:/traces", "behind an MLflow server"),
        ("file:traces", "depends on the folder"),
    ],
)
def test_a_location_that_readers_cannot_use(location: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings({"archive.location": location}, {})
    with pytest.raises(ValueError, match="above_bytes"):
        ArchivePolicy(above_bytes=0)


async def test_a_location_is_asked_when_the_worker_starts(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    with pytest.raises(FatalError, match=r"archive\.location nowhere://x"):
        await opened(database.uri, archive=ArchivePolicy(location="nowhere://x"))
    for uri in ("http://127.0.0.1:1", "databricks"):
        with pytest.raises(FatalError, match="take it out of the settings"):
            open_sink(uri, default_experiment="x", archive=policy(tmp_path))
