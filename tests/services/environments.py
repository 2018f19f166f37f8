"""Virtual environments with another MLflow than the installed one, from the package index, kept in .cache."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tests.services.process import ServiceError

__all__ = ["NEWEST_MLFLOW", "environment", "python_with_mlflow"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
TIMEOUT_S = 300
NEWEST_MLFLOW = "3.18.0"
"""Of which the index has `mlflow` but not mlflow-skinny and mlflow-tracing: it brings all of their modules
along, and warns that their versions differ."""


def python_with_mlflow(version: str) -> Path:
    """The python of an environment that differs from this one by its MLflow, server included."""
    names = (
        ("mlflow",) if version == NEWEST_MLFLOW else ("mlflow", "mlflow-skinny", "mlflow-tracing")
    )
    packages = [f"{name}=={version}" for name in names]
    return environment(f"mlflow-{version}-here", ["--no-deps", *packages], over_this=True)


def environment(name: str, *installs: Sequence[str], over_this: bool = False) -> Path:
    """Its python; made on first use, kept between runs. Raises ServiceError, saying what it needs.

    `installs` are what `uv pip install` is given, one after the other. With `over_this` packages that it
    lacks are those of the running environment.
    """
    CACHE.mkdir(exist_ok=True)
    folder = CACHE / name
    made_of = "\n".join([sys.version, str(ROOT), sys.prefix, *(" ".join(one) for one in installs)])
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready"
        if not ready.exists() or ready.read_text() != made_of:
            shutil.rmtree(folder, ignore_errors=True)
            _uv(folder, "venv", "--quiet", "--python", sys.executable, str(folder))
            for one in installs:
                _uv(folder, "pip", "install", "--quiet", *one)
            if over_this:
                _look_into_this(folder)
            ready.write_text(made_of)
    return folder / "bin" / "python"


def _look_into_this(folder: Path) -> None:
    """Have it look, after its own packages, for those of the environment that runs."""
    (own,) = folder.glob("lib/python*/site-packages")
    these = sysconfig.get_path("purelib")
    (own / "over.pth").write_text(f"import site; site.addsitedir({these!r})\n")


def _uv(folder: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("uv")), *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "VIRTUAL_ENV": str(folder)},
    )
    if done.returncode:
        raise ServiceError(
            f"cannot make {folder} for the tests with another MLflow: a Python package index must "
            f"be reachable, once.\n$ {' '.join(command)}\n{done.stderr[-2000:]}"
        )
