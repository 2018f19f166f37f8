"""What MLflow attaches to every trace of a process: who runs what, at which Git version.

Collected once in a process, on the sender's thread: it starts `git`. Same keys and values as
mlflow.tracing.utils.environment.resolve_env_metadata gives outside of Databricks; beside gevent
without Git's.
"""

import configparser
import getpass
import os
import sys
from functools import lru_cache
from pathlib import Path

from spanferry import git
from spanferry.native import greenlets
from spanferry_schemas import mlflow_keys as keys

__all__ = ["collect_environment"]


@lru_cache(maxsize=1)
def collect_environment() -> dict[str, str]:
    """Metadata for all traces of this process. Takes some milliseconds once; never raises."""
    metadata = {
        keys.METADATA_PROCESS_USER: _user(),
        keys.METADATA_SOURCE_NAME: (sys.argv[0] if sys.argv and sys.argv[0] else "<console>"),
        keys.METADATA_SOURCE_TYPE: "LOCAL",
    }
    return metadata | _git()


def _user() -> str:
    configured = os.environ.get("MLFLOW_TRACKING_USERNAME") or _credentials_file_user()
    if configured:
        return configured
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "unknown"


def _credentials_file_user() -> str | None:
    parser = configparser.ConfigParser()
    try:
        parser.read(Path("~/.mlflow/credentials").expanduser())
        return parser.get("mlflow", "mlflow_tracking_username", fallback=None)
    except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):
        return None


def _git() -> dict[str, str]:
    if greenlets() or not git.has_git():  # gevent lets one thread start programs, and not this one
        return {}
    return {
        keys.METADATA_GIT_COMMIT: git.commit_of(),
        keys.METADATA_GIT_BRANCH: git.branch_of(),
        keys.METADATA_GIT_REPO_URL: git.remote_of(),
    }
