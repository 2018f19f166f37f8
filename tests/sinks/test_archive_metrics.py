"""What the archive has taken, and has not, is counted; its place is asked before anything goes there."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from spanferry_worker.errors import FatalError
from spanferry_worker.runtime.lifecycle import make_parts
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.settings import load_settings
from tests.sinks.archives import files, large, policy
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.stores import five_spans, ids, late, span
from tests.sinks.test_bulk import traces

pytestmark = pytest.mark.mlflow


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(f"spanferry_archive_{name}_total", labels)
    assert found is not None, "there from the start"
    return found


def results(metrics: Metrics) -> dict[str, float]:
    return {
        result: counted(metrics, "traces", result=result)
        for result in ("written", "refused", "unfit")
    }


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_what_is_written_is_counted_with_its_bytes(
    database: Place, opened: OpenSink, tmp_path: Path
) -> None:
    metrics = Metrics()
    assert results(metrics) == {"written": 0, "refused": 0, "unfit": 0}
    sink = await opened(database.uri, archive=policy(tmp_path), archive_metrics=metrics.archive)
    one = large()
    await sink.write([one, five_spans(), large()])
    there = sum(map(len, files(tmp_path).values()))
    assert results(metrics) == {"written": 2, "refused": 0, "unfit": 0}
    assert counted(metrics, "bytes") == there > 2_000
    await sink.write([late(one, spans=[span(ids(1)[0], one.spans[1].span_id)])])
    assert results(metrics)["written"] == 3, "it came back, and went there again"
    assert counted(metrics, "bytes") > there


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_what_stays_in_the_database_is_counted_by_why(
    database: Place, opened: OpenSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    metrics = Metrics()
    place, archived = policy(tmp_path, 1), metrics.archive
    sink = await opened(database.uri, archive=place, archive_metrics=archived)
    await sink.write([traces()["not json"]])
    assert results(metrics) == {"written": 0, "refused": 0, "unfit": 1}

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalArtifactRepository, "log_artifact", refuses)
    await sink.write([large(), large()])
    assert results(metrics) == {"written": 0, "refused": 2, "unfit": 1}
    assert counted(metrics, "bytes") == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_the_workers_own_page_has_it(database: Place, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "kafka.bootstrap_servers": "127.0.0.1:1",
        "mlflow.tracking_uri": database.uri,
        "archive.location": policy(tmp_path).location,
        "archive.above_bytes": 20_000,
    }
    parts = await asyncio.to_thread(lambda: make_parts(load_settings(given, {})))
    await parts.sink.open()
    await parts.sink.write([large()])
    await parts.sink.close()
    [size] = [len(content) for content in files(tmp_path).values()]
    page = parts.metrics.exposition().decode()
    assert 'spanferry_archive_traces_total{result="written"} 1.0' in page
    assert f"spanferry_archive_bytes_total {float(size)}" in page


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_folder_that_cannot_be_written_to_stops_the_worker(
    database: Place, opened: OpenSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = policy(tmp_path)
    (tmp_path / "archive").write_text("a file")
    with pytest.raises(FatalError, match=r"archive\.location .* it is no folder"):
        await opened(database.uri, archive=place)
    (tmp_path / "archive").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)  # whoever runs the tests may write anywhere
        with pytest.raises(FatalError, match="this user may not write there"):
            await opened(database.uri, archive=place)
    await opened(database.uri, archive=place)
    assert not (tmp_path / "archive").exists(), "nothing was written to find out"
