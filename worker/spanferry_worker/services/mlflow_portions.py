"""Many ids in few questions: how many of them a database takes at once."""

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["IDS_MAX", "in_portions"]

IDS_MAX: Final = 400
"""Ids in one IN (…): below SQLite's oldest limit of bound parameters."""


def in_portions(ids: Sequence[str], count: int = IDS_MAX) -> Iterable[Sequence[str]]:
    """So many at a time."""
    return (ids[start : start + count] for start in range(0, len(ids), count))
