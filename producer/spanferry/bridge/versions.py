"""Which MLflow the bridge knows: what was tested, and what to do with the rest."""

import re
from typing import Final

from spanferry.log import logger

__all__ = ["NEWEST", "OLDEST", "UnsupportedError", "check_version"]

OLDEST: Final = (3, 13)
NEWEST: Final = (3, 18)
"""Minor versions with which the differential test passes."""


class UnsupportedError(Exception):
    """This MLflow cannot be bridged; says why and what to do."""


def check_version(version: str) -> bool:
    """Whether light spans may stand behind MLflow's API. Raises UnsupportedError for the too old."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise UnsupportedError(f"MLflow's version {version!r} cannot be read")
    minor = (int(found[1]), int(found[2]))
    if minor < OLDEST:
        raise UnsupportedError(
            f"MLflow {version} is too old: install mlflow>={OLDEST[0]}.{OLDEST[1]}"
        )
    if minor > NEWEST:
        logger.warning(
            "MLflow %s is newer than what was tested (%d.%d): its API goes through spanferry, but "
            "with MLflow's own slower spans. Upgrade spanferry, or install mlflow<=%d.%d",
            version,
            *NEWEST,
            *NEWEST,
        )
        return False
    return True
