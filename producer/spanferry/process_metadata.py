"""Metadata that the app gives to all its traces: what `enable(metadata=...)` takes."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from spanferry import values
from spanferry.log import say_once
from spanferry_schemas import TracePart

__all__ = ["process_metadata", "say_what_is_too_long"]

_KEY_CHARS: Final = 250
_VALUE_CHARS: Final = 8_000
"""What MLflow's columns hold. MLflow's REST API takes 250 characters of a value; the worker cuts there."""


def process_metadata(given: object) -> dict[str, str]:
    """The metadata as it is stored, from a mapping, a JSON object, or `key=value,key=value`.

    Values are stored as text; None leaves its key out. What is longer than MLflow takes is cut, and said
    once. Raises ValueError for anything else.
    """
    pairs = _parsed(given) if isinstance(given, str) else given
    if not isinstance(pairs, Mapping):
        raise ValueError(f"it must be a mapping, not {type(pairs).__name__}")  # noqa: TRY004
    given_pairs: Mapping[Any, Any] = pairs
    texts: dict[str, str] = {}
    for key, value in given_pairs.items():
        if not isinstance(key, str) or not key.strip():
            raise ValueError(f"a key must be a text that is not empty, not {key!r}")
        if value is not None:
            texts[_cut("key", values.text(key), _KEY_CHARS)] = _cut(
                f"value of {key[:50]}", values.text(value), _VALUE_CHARS
            )
    return texts


def say_what_is_too_long(part: TracePart) -> None:
    """Say once that the worker will cut a text of a trace's own part. For the sender's thread."""
    for what, texts in (("tag", part.tags), ("metadata", part.metadata)):
        if not texts or (
            max(map(len, texts)) <= _KEY_CHARS and max(map(len, texts.values())) <= _VALUE_CHARS
        ):
            continue
        for key, text in texts.items():
            for name, given, chars in (("name", key, _KEY_CHARS), ("value", text, _VALUE_CHARS)):
                if len(given) > chars:
                    say_once(
                        f"long-{what}-{name}",
                        "the %s of %s %r has %d characters, MLflow holds %d and the rest is cut off: put "
                        "long texts into an attribute of a span",
                        name,
                        what,
                        key[:50],
                        len(given),
                        chars,
                    )


def _parsed(text: str) -> object:
    """What an environment variable says."""
    text = text.strip()
    if text.startswith("{"):
        try:
            given: dict[str, msgspec.Raw] = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError as error:
            raise ValueError(f"it begins as a JSON object and is none: {error}") from error
        return {key: _json_text(bytes(raw)) for key, raw in given.items()}
    pairs: dict[str, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} is not key=value, and the whole is no JSON object")
        pairs[key.strip()] = value.strip()
    return pairs


def _json_text(raw: bytes) -> str | None:
    """A JSON value as text: a string as it is, anything else as it is written."""
    value = msgspec.json.decode(raw)
    return value if value is None or isinstance(value, str) else raw.decode()


def _cut(what: str, text: str, chars: int) -> str:
    if len(text) <= chars:
        return text
    say_once(
        "process-metadata",
        "metadata: the %s has %d characters, MLflow takes %d and the rest is cut off: shorten it in "
        "enable(metadata=...) or SPANFERRY_METADATA, or set it as an attribute of a span",
        what,
        len(text),
        chars,
    )
    return text[:chars]
