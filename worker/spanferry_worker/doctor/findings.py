"""What the doctor says: findings, each with its remedy. Nothing secret leaves here."""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

__all__ = ["Area", "Finding", "Level", "good", "healthy", "mask", "note", "problem"]

_PASSWORD_IN_URI: Final = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]+)@")
_MASK: Final = "***"


class Area(StrEnum):
    """Which part of the way a finding is about, in the order of the way."""

    SETTINGS = "settings"
    BROKER = "broker"
    TOPIC = "topic"
    DEAD_LETTERS = "dead letters"
    LEDGER = "ledger"
    GROUP = "workers"
    MLFLOW = "mlflow"
    CROSSING = "crossing"


class Level(StrEnum):
    """What a finding means for the exit code: only a problem makes it 1."""

    GOOD = "good"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """One thing the doctor has seen. `remedy` says what to do; `ms` how long it took, if it did."""

    area: Area
    level: Level
    text: str
    remedy: str | None = None
    ms: float | None = None


def good(area: Area, text: str, *, ms: float | None = None) -> Finding:
    """All is well here."""
    return Finding(area, Level.GOOD, text, None, ms)


def note(area: Area, text: str, remedy: str | None = None) -> Finding:
    """Worth knowing, and perhaps meant so."""
    return Finding(area, Level.NOTE, text, remedy)


def problem(area: Area, text: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(area, Level.PROBLEM, text, remedy)


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


def mask(finding: Finding, secrets: Sequence[str | None]) -> Finding:
    """The finding without the secrets, and without any password in any address."""

    def clean(text: str) -> str:
        for secret in filter(None, secrets):
            text = text.replace(secret, _MASK)
        return _PASSWORD_IN_URI.sub(rf"\1:{_MASK}@", text)

    remedy = None if finding.remedy is None else clean(finding.remedy)
    return replace(finding, text=clean(finding.text), remedy=remedy)
