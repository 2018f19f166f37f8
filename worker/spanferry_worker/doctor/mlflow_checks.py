"""Whether MLflow is there and takes traces: what a worker would meet when it starts."""

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from spanferry_worker.doctor.findings import Area, Finding, Level, good, note, problem
from spanferry_worker.doctor.reach import Address, judge_reach, reach
from spanferry_worker.services.mlflow_environment import prepare_environment
from spanferry_worker.settings import MlflowSettings
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.text import without_userinfo

if TYPE_CHECKING:
    from spanferry_worker.services.mlflow_probe import ProbeFinding

__all__ = ["check_mlflow", "server_address"]

_PORTS: Final = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
_EMPTY_REMEDY: Final = (
    "the first worker or `mlflow server` makes MLflow's tables in it; where they should be there "
    "already, the tracking URI leads to the wrong database"
)
_REMEDY: Final = "mend that, and ask again: workers start only where all of this is well"


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


async def check_mlflow(
    settings: MlflowSettings,
    timeout_s: float,
    http: RequestPolicy | None = None,
    archive: ArchivePolicy | None = None,
) -> list[Finding]:
    """Findings about the tracking URI, and the archive of large traces where there is one.

    Nothing is written there; an empty database stays empty.
    """
    uri = settings.tracking_uri
    address = server_address(uri)
    if address is not None:
        reached = judge_reach(await reach(address, timeout_s), Area.MLFLOW, "MLflow")
        if reached.level is Level.PROBLEM:
            return [reached]
    elif uri.startswith(("http:", "https:")):
        return [
            problem(
                Area.MLFLOW,
                f"{without_userinfo(uri)} is not an address",
                "write it as http://host:5000",
            )
        ]
    seen = await asyncio.to_thread(_probe, settings, http, archive)
    empty = [finding.text for finding in seen if finding.empty]
    wrong = [finding.text for finding in seen if not finding.good]
    if empty or wrong:
        notes = [note(Area.MLFLOW, text, _EMPTY_REMEDY) for text in empty]
        return [*notes, *(problem(Area.MLFLOW, text, _REMEDY) for text in wrong)]
    return [good(Area.MLFLOW, "; ".join(finding.text for finding in seen))]


def _probe(
    settings: MlflowSettings, http: RequestPolicy | None, archive: ArchivePolicy | None
) -> "list[ProbeFinding]":
    """What MLflow's own code says of it. Blocking."""
    prepare_environment()
    # mlflow takes seconds to import.
    from spanferry_worker.services.mlflow_probe import probe  # noqa: PLC0415

    return probe(
        settings.tracking_uri,
        default_experiment=settings.experiment,
        create_experiments=settings.create_experiments,
        http=http,
        archive=archive,
    )
