"""Where and what was measured: every published figure carries it."""

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

__all__ = ["Conditions", "conditions", "in_words", "when"]

_PACKAGES = (
    "spanferry",
    "msgspec",
    "aiokafka",
    "mlflow",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "langfuse",
    "langsmith",
)
_MEASURED = ("../producer", "../schemas", "*.py")
"""What decides the figures, seen from here."""


class Conditions(msgspec.Struct, frozen=True):
    """Machine, versions, commit and how busy the machine was when the run began."""

    at: str
    commit: str
    uncommitted_changes: bool
    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    versions: dict[str, str]
    load_1m: float


def conditions(*packages: str) -> Conditions:
    """The present ones, with the versions of these packages besides."""
    return Conditions(
        at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_git("rev-parse", "--short=12", "HEAD"),
        uncommitted_changes=bool(_git("status", "--porcelain", "--", *_MEASURED)),
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        versions=_versions(packages),
        load_1m=round(os.getloadavg()[0], 2),
    )


def in_words(where: Conditions) -> str:
    """Machine, versions and commit, on one line."""
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    return (
        f"{where.cpu}, {where.cores} cores, {where.memory_gb} GB, Linux {where.kernel}, "
        f"Python {where.python}; {versions}; commit {where.commit}"
        f"{' with changes' if where.uncommitted_changes else ''}"
    )


def when(where: Conditions) -> str:
    """When it was, how busy the machine was then, and what that means."""
    busy = ", which is busy: compare lines, not milliseconds" if where.load_1m > where.cores else ""
    return f"{where.at} (load {where.load_1m:g}{busy})"


def _versions(more: Sequence[str]) -> dict[str, str]:
    """Of what is compared and installed."""
    versions: dict[str, str] = {}
    for name in (*_PACKAGES, *more):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
