"""promtool, Prometheus's own judge of rules: the one on PATH, else that of Debian's package prometheus.

The package is downloaded and unpacked into the checkout's .cache folder: nothing is installed.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.services.process import ServiceError

__all__ = ["NoPromtoolError", "promtool"]

CACHE = Path(__file__).parents[2] / ".cache"
HOW_TO_GET_IT = (
    "promtool comes from Debian's package prometheus, by apt-get, or from PATH: put it there, or make "
    "Debian's packages reachable (as root: apt-get update)."
)


class NoPromtoolError(ServiceError):
    """This machine has neither promtool nor apt-get."""


def promtool() -> str:
    """The program. Raises ServiceError, NoPromtoolError where there is no way to get it."""
    found = shutil.which("promtool")
    if found:
        return found
    program = CACHE / "promtool"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "promtool.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                raise NoPromtoolError(HOW_TO_GET_IT)
            _download(program)
    return str(program)


def _download(program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        ended = _run(["apt-get", "download", "prometheus"], folder)
        if ended.returncode and os.geteuid() == 0:
            _run(["apt-get", "update"], folder)
            ended = _run(["apt-get", "download", "prometheus"], folder)
        packages = list(Path(folder).glob("prometheus_*.deb"))
        if not packages:
            raise ServiceError(f"{ended.stderr[-300:]}\n{HOW_TO_GET_IT}")
        _run(["dpkg-deb", "--extract", str(packages[0]), "unpacked"], folder)
        (Path(folder) / "unpacked/usr/bin/promtool").rename(program)


def _run(words: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=110
    )
