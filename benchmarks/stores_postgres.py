"""What PostgreSQL itself counts while traces are stored, and settings that a user may try."""

from collections.abc import Mapping

import psycopg

__all__ = ["IDLE_S", "LARGER", "counted", "counters", "has_lz4", "set_for_restart"]

LARGER: Mapping[str, str] = {
    "shared_buffers": "4GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
}
"""Its defaults are 128 MB, 1 GB and five minutes, for a machine of any size."""

IDLE_S = 11.0
"""Until a connection that does nothing has told its counts."""

_COUNTERS = """
SELECT (SELECT wal_bytes FROM pg_stat_wal), (SELECT wal_fpi FROM pg_stat_wal),
    (SELECT sum(heap_blks_read) FROM pg_statio_user_tables),
    (SELECT sum(idx_blks_hit) FROM pg_statio_user_tables),
    (SELECT buffers_backend FROM pg_stat_bgwriter)
"""
_NAMES = (
    "WAL bytes", "full page images", "table pages read", "index pages hit",
    "pages written by connections",
)  # fmt: skip
_INDEXES = "SELECT indexrelname, idx_blks_read FROM pg_statio_user_indexes"


def has_lz4(uri: str) -> bool:
    """Whether the server was built with it."""
    query = "SELECT 1 FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)"
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as raw:
        return raw.execute(query).fetchone() is not None


def counters(uri: str) -> dict[str, float]:
    """Since the server's start; empty for another database, and for versions that count elsewhere.

    `read` is from outside of PostgreSQL's own cache, which may be the kernel's.
    """
    if not uri.startswith("postgresql"):
        return {}
    try:
        with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as raw:
            row = raw.execute(_COUNTERS).fetchone()
            indexes = raw.execute(_INDEXES).fetchall()
    except psycopg.errors.UndefinedColumn:  # PostgreSQL 17 has moved them
        return {}
    found = dict(zip(_NAMES, map(float, row or ()), strict=False))
    return found | {f"{name} pages read": float(read) for name, read in indexes}


def counted(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What has come between two looks."""
    return {name: after[name] - value for name, value in before.items() if name in after}


def set_for_restart(uri: str, settings: Mapping[str, str]) -> str:
    """Have the server use them once it is started again; in words."""
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as raw:
        for name, value in settings.items():
            raw.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
    return ", ".join(f"{name} {value}" for name, value in settings.items())
