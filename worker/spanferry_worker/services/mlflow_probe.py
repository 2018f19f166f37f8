"""What a worker would find behind a tracking URI, in plain words. Changes nothing there."""

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import sqlalchemy as sa
import sqlalchemy.exc
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.version import VERSION
from msgspec import Struct
from packaging.version import Version

from spanferry_worker.errors import WorkerError
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_archive import check_location
from spanferry_worker.services.mlflow_databricks import DatabricksBackend
from spanferry_worker.services.mlflow_http import HttpBackend
from spanferry_worker.services.mlflow_server import Server
from spanferry_worker.services.mlflow_sink import is_databricks, open_sink
from spanferry_worker.services.mlflow_sql import check_schema, connect
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.text import without_userinfo

__all__ = ["ProbeFinding", "probe"]

_WRITES = (
    "INSERT INTO trace_info SELECT * FROM trace_info WHERE 1 = 0",
    "INSERT INTO spans (trace_id, experiment_id, span_id, status, start_time_unix_nano, content) "
    "SELECT '', 0, '', '', 0, '' FROM trace_info WHERE 1 = 0",
    "UPDATE trace_info SET status = status WHERE 1 = 0",
    "UPDATE spans SET status = status WHERE 1 = 0",
    "INSERT INTO trace_tags SELECT * FROM trace_tags WHERE 1 = 0",
    "INSERT INTO trace_request_metadata SELECT * FROM trace_request_metadata WHERE 1 = 0",
    "INSERT INTO assessments SELECT * FROM assessments WHERE 1 = 0",
)
"""Statements that need the rights of a write and touch no row."""


class ProbeFinding(Struct, frozen=True):
    """One thing that was seen, and whether a worker can live with it. The text names the remedy.

    `empty`: there is a place for MLflow's tables, and nothing in it yet.
    """

    good: bool
    text: str
    empty: bool = False


class _Default(NamedTuple):
    """The worker's default experiment, and whether the worker may make it."""

    name: str
    creates: bool


def probe(
    tracking_uri: str,
    *,
    default_experiment: str,
    create_experiments: bool = True,
    http: RequestPolicy | None = None,
    archive: ArchivePolicy | None = None,
) -> list[ProbeFinding]:
    """Look behind a tracking URI. Blocks for some seconds at most, never raises, writes nothing.

    Call `prepare_environment` before this module is imported.
    """
    default = _Default(default_experiment, create_experiments)
    try:
        open_sink(tracking_uri, default_experiment=default_experiment, archive=archive)
        if urlsplit(tracking_uri).scheme.startswith("http"):
            return _probe_server(tracking_uri.rstrip("/"), default, http)
        if is_databricks(tracking_uri):
            return _probe_databricks(tracking_uri, default, http)
        return [*_probe_database(tracking_uri, default), *_probe_archive(archive)]
    except WorkerError as error:
        return [ProbeFinding(good=False, text=str(error))]


def _probe_server(uri: str, default: _Default, http: RequestPolicy | None) -> list[ProbeFinding]:
    server = Server(uri, http)
    try:
        version = server.version()
    finally:
        server.close()
    same = version.release[:2] == Version(VERSION).release[:2]
    findings = [_good(f"an MLflow server answers at {server.uri}")]
    if same:
        findings.append(_good(f"it runs MLflow {version}, this worker has {VERSION}"))
    else:
        text = f"it runs MLflow {version}, this worker was tested with {VERSION}: use the same"
        findings.append(ProbeFinding(good=False, text=text))
    backend = HttpBackend(uri, http)
    try:
        findings.append(_good("it takes spans"))
        experiment = _ask_experiment(backend.store, default.name)
    finally:
        backend.close()
    return [*findings, _judge_experiment(default, experiment)]


def _probe_databricks(
    uri: str, default: _Default, http: RequestPolicy | None
) -> list[ProbeFinding]:
    backend = DatabricksBackend(uri, http)
    try:
        experiment = _ask_experiment(backend.store, default.name)
    finally:
        backend.close()
    return [_good("Databricks answers"), _judge_experiment(default, experiment)]


def _ask_experiment(store: Any, name: str) -> tuple[str, str] | None:
    try:
        experiment = store.get_experiment_by_name(name)
    except MlflowException:
        return None
    return experiment and (str(experiment.experiment_id), experiment.lifecycle_stage)


def _probe_database(uri: str, default: _Default) -> list[ProbeFinding]:
    if _is_file_to_come(uri):
        return [ProbeFinding(good=True, text=f"{uri} is not there yet", empty=True)]
    engine = connect(uri)
    try:
        where = engine.url.render_as_string(hide_password=True)
        findings = [_good(f"the database {where} answers")]
        if private.is_empty_database(engine):
            return [*findings, ProbeFinding(good=True, text=f"{where} is empty", empty=True)]
        check_schema(engine, initialise=False)
        revision = private.schema_revision(engine)
        findings.append(_good(f"its schema {revision} is that of this worker's MLflow {VERSION}"))
        findings.append(_probe_rights(engine))
        table = SqlExperiment
        query: Any = sa.select(table.experiment_id, table.lifecycle_stage).where(
            table.name == default.name
        )
        with engine.connect() as connection:
            row: Any = connection.execute(query).first()
        experiment = (str(row[0]), str(row[1])) if row else None
        return [*findings, _judge_experiment(default, experiment)]
    finally:
        engine.dispose()


def _probe_archive(archive: ArchivePolicy | None) -> list[ProbeFinding]:
    if archive is None or not archive.enabled:
        return []
    where = without_userinfo(archive.location)
    try:
        check_location(archive.location)
    except WorkerError as error:
        text = str(error).replace(archive.location, where)
        return [ProbeFinding(good=False, text=text)]
    return [_good(f"the archive at {where} answers")]


def _is_file_to_come(uri: str) -> bool:
    """Whether it is an SQLite file that can be made: connecting would already make it."""
    try:
        url = sa.make_url(uri)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return False
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    path = Path(url.database)
    return path.parent.is_dir() and not path.exists()


def _probe_rights(engine: sa.Engine) -> ProbeFinding:
    try:
        with engine.connect() as connection:
            for statement in _WRITES:
                connection.execute(sa.text(statement))
            connection.rollback()
    except sqlalchemy.exc.DBAPIError as error:
        reason = str(error.orig).split("\n", maxsplit=1)[0]
        text = f"it cannot be written to ({reason}): grant the worker's user INSERT and UPDATE"
        return ProbeFinding(good=False, text=text)
    return _good("it can be written to")


def _judge_experiment(default: _Default, experiment: tuple[str, str] | None) -> ProbeFinding:
    name = default.name
    if experiment is None and not default.creates:
        text = (
            f"the default experiment {name!r} is not there, and mlflow.create_experiments is off: "
            "create it, or name another one (mlflow.experiment)"
        )
        return ProbeFinding(good=False, text=text)
    if experiment is None:
        return _good(f"the default experiment {name!r} will be made with the first trace")
    experiment_id, stage = experiment
    if stage == LifecycleStage.DELETED:
        text = (
            f"the default experiment {name!r} is deleted: restore it with `mlflow experiments "
            f"restore --experiment-id {experiment_id}`"
        )
        return ProbeFinding(good=False, text=text)
    return _good(f"the default experiment {name!r} is there ({experiment_id})")


def _good(text: str) -> ProbeFinding:
    return ProbeFinding(good=True, text=text)
