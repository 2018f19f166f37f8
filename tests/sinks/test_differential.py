"""What the sinks store equals what MLflow's own SDK stores for the same programs."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import sqlalchemy as sa
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.stages.trace import AssembledTrace
from tests.services.mlflow import ONE_WRITE_A_TRACE, MlflowServer
from tests.services.mlflow_tables import copy_tables
from tests.sinks.conftest import Place, every_database
from tests.sinks.native_programs import PROGRAMS
from tests.sinks.native_wire import EXPERIMENT, Recorded
from tests.sinks.stores import dump

pytestmark = pytest.mark.mlflow

NEVER_EQUAL = {
    "db_payload_generation",  # counts the writes
    "assessment_id",  # the native one is made by the store
    "last_updated_timestamp",
    "association_id",  # made by the store, as is the time of a link
    "created_time",
}
JUDGED = {"judged", "overridden"}
REFERENCE = re.compile(r"(mlflow-attachment://)([0-9a-f-]{36})")
DURATION, TOOK = "execution_duration_ms", "execution_time_ms"
METADATA = "assessment_metadata"
ROUNDING_MS = 1
"""Of durations in the server's protocol."""
SIZES = ("mlflow.trace.sizeBytes", "mlflow.trace.sizeStats")


class Native:
    """The programs logged natively, and the same traces as a worker gets them."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = str(folder / "artifacts")
        self.uri = copy_tables(folder / "native.db", self.artifacts)
        self.attachments: dict[str, list[bytes]] = {}
        """What each trace has attached, by trace id, in an order of no meaning."""
        out = folder / "recorded"
        subprocess.run(
            [
                *[sys.executable, "-m", "tests.sinks.native_programs"],
                *[self.uri, self.artifacts, out],
            ],
            check=True,
            timeout=200,
            env={**os.environ, **ONE_WRITE_A_TRACE},
        )
        self.recorded = msgspec.msgpack.decode(out.read_bytes(), type=list[Recorded])
        self.attachments = self.take_attachments()

    def batch(self) -> list[AssembledTrace]:
        return [one.assembled() for one in self.recorded]

    def take_attachments(self) -> dict[str, list[bytes]]:
        """The attachments that lie in the artifact folder, which has none afterwards."""
        taken: dict[str, list[bytes]] = {}
        for folder in Path(self.artifacts).rglob("attachments"):
            trace_id = folder.parts[-3]
            taken[trace_id] = sorted(path.read_bytes() for path in folder.iterdir())
            shutil.rmtree(folder)
        return taken

    def program_of(self, trace_id: str) -> str:
        names = {"tr-" + one.trace_id.hex(): one.program for one in self.recorded}
        return names[trace_id]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("native"))


def by_program(native: Native, traces: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Traces as MLflow's API returns them, less what names the store and not the trace."""
    plain: dict[str, dict[str, Any]] = {}
    for trace in traces:
        info = trace.info.to_dict()
        info["tags"].pop("mlflow.artifactLocation")
        info["trace_location"] = None
        for assessment in info.get("assessments", []):
            assessment.pop("assessment_id")
            assessment.pop("last_update_time")
            assessment["overrides"] = bool(assessment.get("overrides"))
        if info.get("assessments"):
            info["assessments"].sort(key=lambda one: (one["assessment_name"], one["overrides"]))
            for key in SIZES:  # MLflow counts feedback here, the sinks do not
                info["trace_metadata"].pop(key)
        made = {"info": info, "spans": [span.to_dict() for span in trace.data.spans]}
        plain[native.program_of(trace.info.trace_id)] = json.loads(unnamed(json.dumps(made)))
    return plain


def read(store: Any, native: Native) -> dict[str, dict[str, Any]]:
    ids = ["tr-" + one.trace_id.hex() for one in native.recorded]
    found = [
        trace
        for some in range(0, len(ids), 10)
        for trace in store.batch_get_traces(ids[some : some + 10])
    ]
    return by_program(native, found)


@every_database
async def test_rows_and_answers_are_the_native_ones(native: Native, database: Place) -> None:
    sink = open_sink(database.uri, default_experiment="unused", artifact_root=native.artifacts)
    await sink.open()
    await sink.write(native.batch())
    once = dump(database.uri)
    await sink.write(native.batch())
    assert dump(database.uri) == once
    await sink.close()
    assert native.take_attachments() == native.attachments
    assert len(native.attachments) == 5
    compare_rows(native, database.uri)

    ours = await asyncio.to_thread(lambda: read(database.store, native))
    theirs = read(SqlAlchemyStore(native.uri, native.artifacts), native)
    assert set(ours) == set(theirs) == set(PROGRAMS)
    for name, trace in theirs.items():
        assert_same(ours[name], trace, name)


def compare_rows(native: Native, uri: str, *, served: bool = False) -> None:
    """Every column of every trace table, but for those that are listed.

    `served`: what is there came through a server.
    """
    ours, theirs = rows_of(native, uri), rows_of(native, native.uri)
    assert len(native.recorded) == len(PROGRAMS) >= 20
    for table, rows in theirs.items():
        assert len(ours[table]) == len(rows), table
        for our_row, their_row in zip(
            map(comparable, ours[table]), map(comparable, rows), strict=True
        ):
            program = native.program_of(owner_of(their_row))
            if program in JUDGED and their_row.get("key") in SIZES:
                continue
            if served:
                take_out_what_the_protocol_changes(our_row, their_row)
                if their_row.get("key") in SIZES:
                    assert_same_size(our_row.pop("value"), their_row.pop("value"))
            assert our_row == their_row, (table, program)


def assert_same_size(ours: str, theirs: str) -> None:
    """But for the digit that a duration has more where that millisecond makes 10 of 9."""
    pairs = zip(re.findall(r"\d+", ours), re.findall(r"\d+", theirs), strict=True)
    assert all(abs(int(our) - int(their)) <= 1 for our, their in pairs), (ours, theirs)


def take_out_what_the_protocol_changes(*rows: dict[str, Any]) -> None:
    """A millisecond of a duration, and the order of the keys of metadata."""
    took = [row.pop(TOOK) or 0 for row in rows if TOOK in row]
    assert not took or max(took) - min(took) <= ROUNDING_MS
    for row in rows:
        if row.get(METADATA):
            row[METADATA] = json.loads(row[METADATA])


def rows_of(native: Native, uri: str) -> dict[str, list[dict[str, Any]]]:
    """Those of the programs' traces; their experiment by its name, whose number is the database's."""
    ids = {"tr-" + one.trace_id.hex() for one in native.recorded}
    engine = sa.create_engine(uri)
    with engine.connect() as connection:
        query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = :name"
        number, place = connection.execute(sa.text(query), {"name": EXPERIMENT}).one()
    engine.dispose()
    rows = {
        table: [named(row, number, place) for row in found if owner_of(row) in ids]
        for table, found in dump(uri, without=NEVER_EQUAL).items()
    }
    assert len(rows["trace_info"]) == len(ids)
    return rows


def owner_of(row: dict[str, Any]) -> str:
    """The id of the trace to which a row belongs."""
    return row.get("trace_id") or row.get("request_id") or row["source_id"]


def named(row: dict[str, Any], number: int, place: str) -> dict[str, Any]:
    """A row that says where it is in words that hold in every database."""
    if "experiment_id" in row:
        assert row["experiment_id"] == number
        row = {**row, "experiment_id": EXPERIMENT}
    if row.get("key") == MLFLOW_ARTIFACT_LOCATION:
        assert row["value"].startswith(f"{place}/")
        row = {**row, "value": row["value"].removeprefix(place)}
    return row


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """JSON by its value, for the order of attributes; its layout is compared as well."""
    if "overrides" in row:
        row = {**row, "overrides": bool(row["overrides"])}
    row = {key: unnamed(value) for key, value in row.items()}
    if "content" not in row:
        return row
    content = json.loads(row["content"])
    assert json.dumps(content, ensure_ascii=False) == row["content"]
    return {**row, "content": content}


def unnamed(value: Any) -> Any:
    """References without the names of what they refer to: natively these are random."""
    return REFERENCE.sub(r"\1…", value) if isinstance(value, str) else value


async def test_server_reads_back_as_the_native_one(
    native: Native, mlflow_server: MlflowServer
) -> None:
    # so small that many traces go in several requests
    small = RequestPolicy(request_bytes_max=100, request_traces_max=5)
    sizes = [
        sum(len(value) for span in one.spans for value in span.attributes.values())
        for one in native.recorded
        if len(one.spans) > 1
    ]
    assert len([size for size in sizes if size > 100]) >= 5
    sink = open_sink(mlflow_server.uri, default_experiment="unused", http=small)
    await sink.open()
    await sink.write(native.batch())
    await sink.close()
    store = SqlAlchemyStore(mlflow_server.backend_uri, native.artifacts)
    compare_rows(native, mlflow_server.backend_uri, served=True)
    assert served_attachments(mlflow_server.uri, store, native) == native.attachments
    ours = read(store, native)
    theirs = read(SqlAlchemyStore(native.uri, native.artifacts), native)
    assert set(ours) == set(theirs) == set(PROGRAMS)
    for name, trace in theirs.items():
        took, native_took = (one["info"].pop(DURATION) for one in (ours[name], trace))
        assert abs(took - native_took) <= ROUNDING_MS, name
        metadata = [one["info"]["trace_metadata"] for one in (ours[name], trace)]
        for key in SIZES if SIZES[0] in metadata[1] else ():
            assert_same_size(*(one.pop(key) for one in metadata))
        assert_same(ours[name], trace, name)


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    """Field by field, so that a failure names the one that differs."""
    assert ours["info"].keys() == theirs["info"].keys(), name
    for field, value in theirs["info"].items():
        assert ours["info"][field] == value, (name, field)
    assert ours == theirs, name


def served_attachments(uri: str, store: Any, native: Native) -> dict[str, list[bytes]]:
    """What the server gives for every reference in the programs' traces, as MLflow's UI asks."""
    served: dict[str, list[bytes]] = {}
    for trace_id in native.attachments:
        (trace,) = store.batch_get_traces([trace_id])
        names = REFERENCE.findall(json.dumps([span.to_dict() for span in trace.data.spans]))
        answers = [
            requests.get(
                f"{uri}/ajax-api/3.0/mlflow/get-trace-artifact",
                params={"request_id": trace_id, "path": name},
                timeout=120,
            )
            for name in sorted({name for _, name in names})
        ]
        assert all(answer.ok for answer in answers), trace_id
        served[trace_id] = sorted(answer.content for answer in answers)
    return served


def test_experiment_of_the_programs(native: Native) -> None:
    assert {one.part.experiment for one in native.recorded} == {EXPERIMENT}
