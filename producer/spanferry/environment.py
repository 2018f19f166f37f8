"""What MLflow attaches to every trace of a process: who runs what, at which Git version.

Collected once in a process, on the sender's thread: it starts `git`. Same keys and values as
mlflow.tracing.utils.environment.resolve_env_metadata gives outside of Databricks.
"""

import configparser
import getpass
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from spanferry_schemas import mlflow_keys as keys

__all__ = ["collect_environment", "without_credentials"]

_GIT_TIMEOUT_S = 5.0


@lru_cache(maxsize=1)
def collect_environment() -> dict[str, str]:
    """Metadata for all traces of this process. Takes some milliseconds once; never raises."""
    metadata = {
        keys.METADATA_PROCESS_USER: _user(),
        keys.METADATA_SOURCE_NAME: (sys.argv[0] if sys.argv and sys.argv[0] else "<console>"),
        keys.METADATA_SOURCE_TYPE: "LOCAL",
    }
    return metadata | _git()


def without_credentials(url: str) -> str:
    """A Git remote without the user and password that an https address may carry."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


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
    if shutil.which("git") is None:
        return {}
    remotes = _run("remote").split("\n")
    url = _run("remote", "get-url", remotes[0]) if remotes[0] else ""
    try:
        url = without_credentials(url)
    except ValueError:
        url = ""
    return {
        keys.METADATA_GIT_COMMIT: _run("rev-parse", "--verify", "--quiet", "HEAD"),
        keys.METADATA_GIT_BRANCH: _run("symbolic-ref", "--quiet", "--short", "HEAD"),
        keys.METADATA_GIT_REPO_URL: url,
    }


def _run(*arguments: str) -> str:
    """What git answers in the working directory; empty where it has no answer."""
    try:
        done = subprocess.run(  # noqa: S603  fixed words, no shell
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""
