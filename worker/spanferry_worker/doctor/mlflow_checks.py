"""Whether MLflow is there and takes traces: what a worker would meet when it starts."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from spanferry_worker.doctor.findings import Area, Finding, Level, good, note, problem
from spanferry_worker.doctor.reach import Address, judge_reach, reach
from spanferry_worker.errors import FatalError, TransientError, WorkerError
from spanferry_worker.services.mlflow_environment import prepare_environment
from spanferry_worker.services.mlflow_sink import open_sink
from spanferry_worker.settings import MlflowSettings

__all__ = ["check_mlflow", "server_address"]

_PORTS: Final = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def server_address(tracking_uri: str) -> Address | None:
    """Where the tracking URI leads over the network; None for a file, and for what is no URI."""
    try:
        parts = urlsplit(tracking_uri)
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.partition("+")[0].lower()
    if scheme not in _PORTS or not parts.hostname:
        return None
    return Address(parts.hostname, port or _PORTS[scheme])


async def check_mlflow(settings: MlflowSettings, timeout_s: float) -> list[Finding]:
    """Findings about the tracking URI. An empty database is left empty."""
    uri = settings.tracking_uri
    address = server_address(uri)
    if address is not None:
        reached = judge_reach(await reach(address, timeout_s), Area.MLFLOW, "MLflow")
        if reached.level is Level.PROBLEM:
            return [reached]
    elif uri.startswith(("http:", "https:")):
        return [problem(Area.MLFLOW, f"{uri} is not an address", "write it as http://host:5000")]
    prepare_environment()
    try:
        if await asyncio.to_thread(_is_empty_database, uri):
            return [
                note(
                    Area.MLFLOW,
                    "the database is empty",
                    "the first worker or `mlflow server` makes MLflow's tables in it; where they "
                    "should be there already, the tracking URI leads to the wrong database",
                )
            ]
        return [await _check_sink(settings)]
    except WorkerError as error:
        return [_judge_error(error)]


def _is_empty_database(uri: str) -> bool:
    """Whether it is a database without tables. Raises TransientError and FatalError."""
    if urlsplit(uri).scheme.partition("+")[0].lower() not in {"postgresql", "mysql", "sqlite"}:
        return False
    # mlflow takes a second to import, and only this needs it.
    from spanferry_worker.services.mlflow_private import is_empty_database  # noqa: PLC0415
    from spanferry_worker.services.mlflow_sql import connect  # noqa: PLC0415

    engine = connect(uri)
    try:
        return is_empty_database(engine)
    finally:
        engine.dispose()


async def _check_sink(settings: MlflowSettings) -> Finding:
    started = asyncio.get_running_loop().time()
    sink = open_sink(settings.tracking_uri, default_experiment=settings.experiment)
    try:
        await sink.open()
    finally:
        await sink.close()
    ms = (asyncio.get_running_loop().time() - started) * 1000
    from mlflow.version import VERSION  # noqa: PLC0415

    text = f"{settings.tracking_uri} takes traces (MLflow {VERSION} here)"
    return good(Area.MLFLOW, text, ms=ms)


def _judge_error(error: WorkerError) -> Finding:
    text = str(error)
    if isinstance(error, TransientError):
        remedy = "see that it runs and answers; until then workers wait and lose nothing"
    elif isinstance(error, FatalError):
        remedy = "mend that first: a worker ends here with exit code 3"
    else:
        remedy = "MLflow refuses what workers ask of it: look at its log"
    return problem(Area.MLFLOW, text, remedy)
