"""Times, sizes and foreign text as commands print them."""

from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit, urlunsplit

__all__ = ["cut", "printable", "size_text", "time_text", "without_userinfo"]

_YEAR_9999_MS: Final = 253_402_300_799_999


def time_text(time_ms: int) -> str:
    """To the second, in UTC."""
    moment = datetime.fromtimestamp(max(0, min(time_ms, _YEAR_9999_MS)) // 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def size_text(size: int) -> str:
    """Bytes in the largest unit that gives at least 1."""
    if size < 1_000:
        return f"{size} B"
    return f"{size / 1e3:.1f} KB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def cut(text: str, width: int) -> str:
    """In one line of at most `width` characters."""
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def printable(text: str) -> str:
    """Without what moves a terminal's cursor or says nothing: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def without_userinfo(uri: str) -> str:
    """An address without the user name and password that may stand in it."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "…"
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)) if at else uri
