"""Differences that are known and not meant to stay: their tests must fail, until they are gone."""

__all__ = ["OPEN"]

OPEN: dict[tuple[str, str], str] = {}
"""By mode and program: what is wrong."""
