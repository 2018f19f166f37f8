"""What is PostgreSQL's own in a transaction that stores traces."""

from typing import Any, Final

import sqlalchemy as sa

__all__ = ["compress_faster"]

_NAME: Final = "postgresql"
_MAY: Final = sa.text(
    "SELECT 1 FROM pg_settings WHERE name = 'default_toast_compression' "
    "AND source = 'default' AND 'lz4' = ANY(enumvals)"
)
"""Whether the server was built with LZ4, and nobody has configured how it compresses."""
_LZ4: Final = sa.text("SET LOCAL default_toast_compression = 'lz4'")
_KNOWN: Final = "spanferry_lz4"


def compress_faster(session: Any) -> None:
    """Have large texts of this transaction compressed by LZ4, where the database does not say how.

    Of what PostgreSQL does with a trace, its own compression, pglz, costs a fifth at 10 KB, half at
    100 KB and two thirds at 1 MB (docs/benchmarks-stores.md). Readers get the same. Asked once a connection:
    the next may lead to another server.
    """
    connection = session.connection()
    if connection.dialect.name != _NAME:
        return
    known = connection.info
    if _KNOWN not in known:
        known[_KNOWN] = connection.execute(_MAY).scalar() is not None
    if known[_KNOWN]:
        connection.execute(_LZ4)
