"""Text as MLflow's columns take it: JSON in Python's own layout, nothing a database refuses."""

import json
import logging
import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from spanferry_worker.telemetry import LogEvent

__all__ = ["Limits", "Texts", "Written", "ascii_length", "escaped", "loaded"]

_logger = logging.getLogger(__name__)

_ESCAPE_CHARS: Final = 5
"""What `\\u1234` is longer than the character."""
REPLACEMENT: Final = "\ufffd"
TOO_DEEP: Final = b"nested deeper than MLflow can read: "
"""Makes the text of a JSON value no JSON itself: MLflow unwraps strings that hold JSON."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NUL_ESCAPE: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
SMALL_BYTES: Final = 64
SMALL_MAX: Final = 2_000
"""JSON texts up to that size are remembered, so many of them: types, levels, models come again."""
_LOADED_CHARS: Final = 400
_LOADED_MAX: Final = 2_000
"""... and values, which several columns of one span are read from."""
_SAID_MAX: Final = 1_000
"""Kinds that it says of: keys are the app's, and may be any number."""
_ASCII: Final = bytes(range(128))
_BRACKETS: Final = b"[]{}"
_PLAIN: Final = bytes(byte for byte in range(127) if byte not in _BRACKETS)
"""What neither nests nor becomes longer where json.dumps escapes what is not ASCII."""
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _BRACKETS)


class Limits(NamedTuple):
    """What a way into MLflow takes. Lengths are in characters, the depth in nested JSON values."""

    tag_value_chars: int
    metadata_value_chars: int
    json_depth: int
    key_chars: int = 250
    name_chars: int = 250
    id_chars: int = 50
    run_id_chars: int = 32
    span_type_chars: int = 500
    preview_chars: int = 1000
    trace_name_chars: int = 4096
    session_chars: int = 250
    model_name_chars: int = 500
    param_key_chars: int = 250
    param_value_chars: int = 6000


class Written(NamedTuple):
    """A JSON text that is to stand in another one."""

    text: str
    escaped: bytes
    """It in UTF-8 between the quotes of a JSON string."""
    growth: int
    """How many characters longer that is once json.dumps has escaped what is not ASCII."""


class Texts:
    """Cuts, cleans and formats text for one sink. Says once for each kind that it cuts something."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._small = lru_cache(SMALL_MAX)(self._written)
        self._said: set[str] = set()

    def clean(self, text: str) -> str:
        """`text` without what PostgreSQL or UTF-8 refuse: NUL and lone surrogates become U+FFFD."""
        if "\0" in text:
            text = text.replace("\0", REPLACEMENT)
        return text if text.isascii() else _SURROGATE.sub(REPLACEMENT, text)

    def cut(self, kind: str, text: str, chars: int) -> str:
        """`text` cleaned, and cut to `chars` characters with a log line for the first of its kind."""
        text = self.clean(text)
        if len(text) <= chars:
            return text
        if kind not in self._said and len(self._said) < _SAID_MAX:
            self._said.add(kind)
            _logger.warning(
                "a %s of %d characters is cut to %d, which is what MLflow holds; "
                "further ones are cut without a word",
                kind,
                len(text),
                chars,
                extra=LogEvent.WRITE_PARTLY(),
            )
        return text[:chars]

    def preview(self, text: str) -> str:
        """A preview of the user's own, shortened as MLflow shortens those it makes."""
        text = self.clean(text)
        chars = self.limits.preview_chars
        return text if len(text) <= chars else text[: chars - 3] + "..."

    def json(self, raw: bytes) -> str:
        """One JSON text as MLflow's SDK would have written the same value.

        That is Python's separators and unescaped non-ASCII, because searches match on both. What
        is not JSON, or nested deeper than MLflow can read, becomes a JSON string of its text.
        """
        return self.written(raw).text

    def written(self, raw: bytes) -> Written:
        """The same text, and what it takes within another one."""
        return self._small(raw) if len(raw) <= SMALL_BYTES else self._written(raw)

    def _written(self, raw: bytes) -> Written:
        odd = raw.translate(None, _PLAIN)
        if len(odd) > self.limits.json_depth and self._too_deep(raw, odd):
            return escaped(self._json_string(TOO_DEEP + raw))
        if raw.rfind(b"\\u") >= 0:  # from its rarer end: that takes half as long
            return escaped(self._json_slowly(raw))
        try:
            encoded = msgspec.json.format(raw, indent=0)
            text = encoded.decode()
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return escaped(self._json_slowly(raw))
        return Written(text, _between_quotes(encoded), _growth(odd))

    def json_value(self, raw: bytes) -> object:
        """The value of a JSON text; its text where it is none."""
        value: object = json.loads(self.json(raw))
        return value

    def marked(self, text: str, mark: str) -> str:
        """A JSON string of another JSON text, which MLflow neither unwraps nor reads."""
        return json.dumps(f"{mark}: {text}", ensure_ascii=False)

    def json_object(self, raw: bytes) -> dict[str, object]:
        """The value of a JSON object, or `{"value": …}` around anything else."""
        value = self.json_value(raw)
        return value if isinstance(value, dict) else {"value": value}

    def _json_slowly(self, raw: bytes) -> str:
        """Through Python's own codec: resolves escapes, and takes NaN and Infinity as MLflow does."""
        try:
            value = json.loads(raw)
            text = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            return self._json_string(raw)
        return _NUL_ESCAPE.sub(rf"\1{REPLACEMENT}", self.clean(text))

    def _json_string(self, raw: bytes) -> str:
        return json.dumps(self.clean(raw.decode("utf-8", "replace")), ensure_ascii=False)

    def _too_deep(self, raw: bytes, odd: bytes) -> bool:
        """Whether brackets nest deeper than the limit, found by peeling off the innermost pairs.

        Brackets within strings count too, so it may err towards "too deep" for very odd text. MLflow
        reads a string that looks like JSON as JSON, even where its brackets are never closed.
        """
        brackets = odd.translate(None, _NOT_BRACKETS)
        if len(brackets) <= self.limits.json_depth:
            return False
        if raw[:2] in {b'"[', b'"{'} and _overflows(raw):
            return True
        for _ in range(self.limits.json_depth):
            peeled = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(peeled) == len(brackets):
                return False
            brackets = peeled
        return bool(brackets)


def loaded(text: str) -> Any:
    """The value of a JSON text, which nobody may change. Raises ValueError and RecursionError."""
    return _loaded(text) if len(text) <= _LOADED_CHARS else json.loads(text)


@lru_cache(_LOADED_MAX)
def _loaded(text: str) -> Any:
    return json.loads(text)


def escaped(text: str) -> Written:
    """A JSON text that Python's codec has written."""
    encoded = text.encode()
    return Written(text, _between_quotes(encoded), _growth(encoded.translate(None, _PLAIN)))


def ascii_length(encoded: bytes) -> int:
    """How long a JSON text in UTF-8 is once json.dumps has escaped what is not ASCII in it."""
    return len(encoded) + _growth(encoded.translate(None, _PLAIN))


def _between_quotes(encoded: bytes) -> bytes:
    """JSON has no control characters: nothing else needs an escape."""
    return encoded.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _growth(odd: bytes) -> int:
    """By the characters of a JSON text in UTF-8 that are not among _PLAIN."""
    if not odd:
        return 0
    growth = _ESCAPE_CHARS * odd.count(b"\x7f")  # which is ASCII, and escaped
    if not odd.isascii():
        others = odd.translate(None, _ASCII)
        characters = others.decode("utf-8", "surrogatepass")
        units = len(characters.encode("utf-16-le", "surrogatepass")) // 2
        growth += (1 + _ESCAPE_CHARS) * units - len(others)
    return growth


def _overflows(raw: bytes) -> bool:
    """Whether Python cannot read a JSON string's content, for its depth."""
    try:
        content = json.loads(raw)
        if isinstance(content, str):
            json.loads(content)
    except RecursionError:
        return True
    except ValueError:
        return False
    return False
