"""A virtual environment as an app may have it: an older MLflow, libraries that it traces, spanferry."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.services.process import ServiceError

__all__ = ["OLDEST_MLFLOW", "python_with"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
OLDEST_MLFLOW = "3.13.0"
BESIDE = ("numpy>=2,<3", "pandas>=2,<4", "orjson", "msgspec", "aiokafka[zstd]>=0.14,<0.15")
# What the oldest traces by itself: the newest that it says it works with, and what these are made of.
# Pydantic AI is not there: of the newest it finds but half of what it traces.
TRACED = (
    "openai==2.36.0",
    "anthropic==0.101.0",
    "groq==1.2.0",
    "langchain==1.3.0",
    "langchain-core==1.8.3",
    "langchain-openai==1.3.4",
    "langgraph==1.2.0",
)
TIMEOUT_S = 300


def python_with(version: str) -> Path:
    """Its python; made on first use, kept between runs. Raises ServiceError, saying what it needs."""
    CACHE.mkdir(exist_ok=True)
    folder = CACHE / f"mlflow-{version}"
    packages = [f"mlflow-skinny=={version}", *BESIDE, *TRACED]
    made_of = "\n".join([sys.version, str(ROOT), *packages])
    with (CACHE / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready"
        if not ready.exists() or ready.read_text() != made_of:
            shutil.rmtree(folder, ignore_errors=True)
            uv(folder, "venv", "--quiet", "--python", sys.executable, str(folder))
            uv(folder, "pip", "install", "--quiet", *packages)
            uv(folder, "pip", "install", "--quiet", "--no-deps", "--editable", str(ROOT))
            ready.write_text(made_of)
    return folder / "bin" / "python"


def uv(folder: Path, *arguments: str) -> None:
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
            f"cannot make {folder} for the test with an older MLflow: a Python package index must "
            f"be reachable, once.\n$ {' '.join(command)}\n{done.stderr[-2000:]}"
        )
