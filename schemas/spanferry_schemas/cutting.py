"""Cutting payloads honestly: a preview that is JSON, and a mark with what there was."""

import re
from typing import Final

import msgspec

__all__ = ["CUT_ATTRIBUTE", "CUT_ITEMS_ATTRIBUTE", "cut_json", "cut_object", "cut_sizes"]

CUT_ATTRIBUTE: Final = "spanferry.cut"
"""Span attribute: JSON object from the name of what was cut to its original bytes; `events` counts
what all events of the span had, and `links` how many bytes the links' attributes had."""

CUT_ITEMS_ATTRIBUTE: Final = "spanferry.cut.items"
"""Span attribute of a stream whose outputs were cut: how many items it had."""

_ELLIPSIS: Final = "…".encode()
_AROUND: Final = len(_ELLIPSIS) + 2
"""What a preview has beside the beginning of the text."""

_HALF_A_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


def cut_json(value: bytes, bytes_max: int) -> bytes:
    """A preview of a JSON text as a JSON string of at most `bytes_max` bytes, 8 at least.

    Of a string its beginning; of anything else the beginning of the JSON text itself.
    """
    room = max(bytes_max - _AROUND, 0)
    if value.startswith(b'"'):
        start = value[1 : 1 + room]
        start = start.removesuffix(b'"') if len(value) <= room + 2 else start
    else:
        start = msgspec.json.encode(value[:room].decode("utf-8", "ignore"))[1:-1][:room]
    return b'"' + _without_broken_tail(start) + _ELLIPSIS + b'"'


def cut_object(attributes: bytes, bytes_max: int) -> bytes:
    """A JSON object with its big values cut; an empty one where it is no object."""
    if len(attributes) <= bytes_max:
        return attributes
    try:
        values = msgspec.json.decode(attributes, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return b"{}"
    small = {
        name: msgspec.Raw(
            cut_json(bytes(value), bytes_max) if len(bytes(value)) > bytes_max else value
        )
        for name, value in values.items()
    }
    return msgspec.json.encode(small)


def cut_sizes(earlier: bytes) -> dict[str, int]:
    """What `spanferry.cut` says already; nothing where it is not what it should be."""
    try:
        return msgspec.json.decode(earlier, type=dict[str, int])
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _without_broken_tail(start: bytes) -> bytes:
    """The inside of a JSON string that was cut anywhere, without half an escape or character."""
    start = start.decode("utf-8", "ignore").encode()
    at = start.rfind(b"\\", max(len(start) - 6, 0))
    if at >= 0 and _begins_escape(start, at):
        length = 6 if start[at + 1 : at + 2] == b"u" else 2
        if at + length > len(start):
            start = start[:at]
    pair = _HALF_A_PAIR.search(start)
    if pair is not None and _begins_escape(start, pair.start()):
        start = start[: pair.start()]
    return start


def _begins_escape(text: bytes, at: int) -> bool:
    """Whether the backslash there is not itself escaped."""
    backslashes = at + 1 - len(text[: at + 1].rstrip(b"\\"))
    return backslashes % 2 == 1
