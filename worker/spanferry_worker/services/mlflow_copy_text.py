"""Rows as the text that PostgreSQL's COPY reads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = ["copy_text"]


def copy_text(rows: Iterable[Sequence[Any]]) -> bytes:
    """A line in UTF-8 for each row; bytes are texts in UTF-8.

    Raises KeyError for a value that no column of MLflow's holds. What only the database refuses (NUL,
    half of a surrogate pair) is in it as it is.
    """
    by_type = _BY_TYPE
    return b"".join(
        b"\t".join([by_type[type(value)](value) for value in row]) + b"\n" for row in rows
    )


def _escaped(text: bytes) -> bytes:
    if b"\\" in text:
        text = text.replace(b"\\", b"\\\\")
    return text.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")


def _text(text: str) -> bytes:
    return _escaped(text.encode("utf-8", "surrogatepass"))


def _number(value: float) -> bytes:
    return repr(value).encode()


_BY_TYPE: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: _text,
    bytes: _escaped,
    int: _number,
    bool: lambda value: b"t" if value else b"f",
    float: _number,
    type(None): lambda _: b"\\N",
}
