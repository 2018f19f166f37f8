"""What MySQL and MariaDB do in their own way: errors by number, packets, collations, half-strict modes."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
import sqlalchemy.event
from mlflow.entities import Span, TraceInfo
from mlflow.store.tracking.dbmodels.models import SqlTraceMetadata, SqlTraceTag
from mlflow.tracing.utils import TraceJSONEncoder

from spanferry_worker.errors import PoisonError
from spanferry_worker.services import mlflow_private as private

__all__ = [
    "NAME",
    "Literals",
    "clashing_keys",
    "is_forbidden",
    "is_poison",
    "is_transient",
    "literal_bytes",
    "make_strict",
    "packet_bytes",
    "portions",
    "too_large",
]

NAME: Final = "mysql"
"""SQLAlchemy's dialect for both."""

_STATEMENT_ROOM_BYTES: Final = 64_000
"""Of a packet, left for the statement around one value."""
_ROWS_MAX: Final = 100
"""Spans that MLflow's store puts into one statement."""
_NO_BACKSLASH_ESCAPES: Final = 512
"""A flag of the server's status: '\\' is a letter like any other."""
_PACKET: Final = sa.text("SELECT @@max_allowed_packet")

_TRANSIENT_ERRORS: Final = frozenset({
    1020, 1021, 1030, 1040, 1041, 1043, 1053, 1077, 1078, 1079, 1080, 1114, 1129, 1152, 1158, 1159,
    1160, 1161, 1184, 1203, 1205, 1213, 1226, 1290, 1317, 1412, 1614, 1637, 1792, 1836, 1927, 1969,
    2002, 2003, 2006, 2012, 2013, 2014, 2055, 3024, 3032, 3101, 4031,
})  # fmt: skip
"""Locks, deadlocks, lost connections, limits, full disks, shutdown, read-only servers."""
_ACCESS_ERRORS: Final = frozenset({1044, 1045, 1049, 1054, 1142, 1143, 1146, 1227, 1370, 1698})
"""It refuses us, not the data: an operator can mend that."""
_FORBIDDEN_ERRORS: Final = frozenset({1142, 1143})
"""Of those, what the user may not do with one table, or with a column of it."""
_POISON_ERRORS: Final = frozenset({1118, 1153, 1264, 1267, 1300, 1366, 1406, 3854, 3988})
"""What no repetition changes, though drivers call some of it operational."""


def _number(error: object) -> int:
    """The error's number, whichever driver raised it; 0 for another database's."""
    number = getattr(error, "errno", None)
    if number is None:
        arguments = getattr(error, "args", ())
        number = arguments[0] if arguments else 0
    return number if isinstance(number, int) else 0


def is_transient(error: object) -> bool:
    """Whether a driver's error is one that goes by, or that an operator can mend."""
    return _number(error) in _TRANSIENT_ERRORS or _number(error) in _ACCESS_ERRORS


def is_forbidden(error: object) -> bool:
    """Whether the user lacks the right to do this with this table."""
    return _number(error) in _FORBIDDEN_ERRORS


def is_poison(error: object) -> bool:
    """Whether a driver's error will be the same again, though its class says otherwise."""
    return _number(error) in _POISON_ERRORS


def make_strict(engine: sa.Engine) -> None:
    """Let every connection refuse values that do not fit, which the server may be set to cut silently.

    MLflow itself leaves a connection without strictness in the pool when it makes its first
    experiment: connections that are open now are closed.
    """
    if engine.dialect.name == NAME and not sqlalchemy.event.contains(engine, "connect", _strictly):
        sqlalchemy.event.listen(engine, "connect", _strictly)
        engine.dispose()


def _strictly(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(
        "SET SESSION sql_mode = CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), 'STRICT_ALL_TABLES')"
    )
    cursor.close()


def packet_bytes(session: Any) -> int:
    """The longest statement that the server takes."""
    return int(session.execute(_PACKET).scalar_one())


def too_large(what: str, size: int, limit: int) -> PoisonError:
    """The error for what no packet can hold."""
    return PoisonError(
        f"{what} takes a statement of {size:,} bytes, the database's max_allowed_packet is {limit:,}: "
        "raise it and replay the dead letters"
    )


class Literals:
    """Rows as SQL text, for one PyMySQL connection.

    Its own writer looks at every character; here two replacements do, which is all that a literal in
    UTF-8 needs.
    """

    def __init__(self, connection: Any) -> None:
        self._encoding: str = connection.encoding
        plain = bool(connection.server_status & _NO_BACKSLASH_ESCAPES)
        quoted = _doubled if plain else _escaped
        self._by_type: Mapping[type, Callable[[Any], str]] = {
            str: quoted,
            bytes: lambda text: quoted(text.decode("utf-8", "surrogatepass")),
            int: str,
            bool: _boolean,
            float: _float,
            type(None): _null,
        }

    def rows(self, rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
        """One `(…)` for each; bytes are texts in UTF-8.

        Raises ValueError and KeyError for what no column of MLflow's holds.
        """
        by_type, encoding = self._by_type, self._encoding
        for row in rows:
            values = [by_type[type(value)](value) for value in row]
            yield f"({','.join(values)})".encode(encoding)


def _escaped(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _doubled(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number to MySQL")
    text = repr(value)
    return text if "e" in text else text + "e0"  # else it is a DECIMAL


def _boolean(value: bool) -> str:
    return "1" if value else "0"


def _null(_: None) -> str:
    return "NULL"


def portions(spans: Sequence[Span], limit: int) -> Iterator[list[Span]]:
    """Spans for calls of log_spans none of whose statements is longer than a packet.

    Raises PoisonError for a span that is longer by itself.
    """
    room = limit - _STATEMENT_ROOM_BYTES
    some: list[Span] = []
    total = 0
    for span in spans:
        size = _statement_bytes(span, room)
        if size > room:
            raise too_large(f"span {span.span_id} of trace {span.trace_id}", size, limit)
        if some and (total + size > room or len(some) == _ROWS_MAX):
            yield some
            some, total = [], 0
        some.append(span)
        total += size
    if some:
        yield some


def _statement_bytes(span: Span, room: int) -> int:
    """At most so many bytes of a statement; exact where that might matter."""
    chars = sum(len(key) + len(text) for key, text in private.attribute_texts(span).items())
    chars += 2_000 + len(span.name) + 4_000 * (len(span.events) + len(span.links))
    if chars * 16 <= room:  # four bytes a character, JSON's escapes, SQL's escapes
        return chars * 4
    content = json.dumps(
        private.translate_span_when_storing(span), cls=TraceJSONEncoder, ensure_ascii=False
    )
    return literal_bytes(content) + 4 * len(span.name)


def literal_bytes(text: str) -> int:
    """What a text takes within a statement, at most."""
    escapes = sum(map(text.count, ("\\", '"', "'")))
    return len(text.encode("utf-8", "surrogatepass")) + escapes


def clashing_keys(session: Any, info: TraceInfo) -> bool:
    """Whether the database takes two keys of the trace's tags, or of its metadata, for the same.

    That is what its collation says: usually capitals are as small letters, accents and trailing
    spaces count for nothing.
    """
    keys: list[tuple[Any, list[str]]] = [
        (SqlTraceTag.key, list(info.tags)),
        (SqlTraceMetadata.key, list(info.trace_metadata)),
    ]
    return any(_distinct(session, column, texts) < len(texts) for column, texts in keys)


def _distinct(session: Any, column: Any, texts: Iterable[str]) -> int:
    """How many of the texts are different in the column's collation."""
    none = sa.select(column.label("text")).where(sa.false())
    given = [sa.select(sa.literal(text).label("text")) for text in texts]
    united = sa.union_all(none, *given).subquery()
    return int(session.execute(sa.select(sa.func.count(united.c.text.distinct()))).scalar_one())
