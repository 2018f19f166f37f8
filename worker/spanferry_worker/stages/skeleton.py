"""A span without its payloads: the skeleton that sampling keeps of a big trace."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from spanferry_schemas import Span, SpanEvent
from spanferry_schemas.mlflow_keys import SPAN_TOKEN_USAGE

__all__ = ["CUT_ATTRIBUTE", "cut_json", "skeleton"]

CUT_ATTRIBUTE: Final = "spanferry.cut"
"""Span attribute: JSON object from the name of what was cut to its original bytes; `events` counts
what all events of the span had, and `links` how many bytes the links' attributes had."""

_KEPT_WHOLE: Final = frozenset({SPAN_TOKEN_USAGE, CUT_ATTRIBUTE})
_ELLIPSIS: Final = "…"
_BROKEN_TAIL: Final = re.compile(r"[\ud800-\udfff]")


def skeleton(span: Span, *, attribute_bytes_max: int, events_bytes_max: int) -> Span:
    """The span with its ids, times, status and small attributes; big ones cut to JSON previews.

    Applied to a skeleton it changes nothing. A span with nothing to cut is returned as it is.
    """
    cut: dict[str, int] = {}
    attributes = _cut_values(span.attributes, attribute_bytes_max, cut)
    events = span.events
    events_bytes = sum(map(_event_bytes, events))
    if events_bytes > events_bytes_max:
        cut["events"] = events_bytes
        events = _cut_events(events, attribute_bytes_max, events_bytes_max)
    links = span.links
    links_bytes = sum(len(link.attributes) for link in links)
    if links_bytes > attribute_bytes_max:
        cut["links"] = links_bytes
        links = [replace(link, attributes=b"{}") for link in links]
    if not cut:
        return span
    earlier = attributes.get(CUT_ATTRIBUTE)
    if earlier is not None:
        cut = {**cut, **_sizes(earlier)}
    attributes[CUT_ATTRIBUTE] = msgspec.json.encode(cut)
    return replace(span, attributes=attributes, events=events, links=links)


def cut_json(value: bytes, bytes_max: int) -> bytes:
    """A preview of a JSON text as a JSON string of at most `bytes_max` bytes.

    Of a string its beginning; of anything else the beginning of the JSON text itself.
    """
    # A character is at most six bytes of JSON text (\\uXXXX), an escaped quote two.
    text = value[: bytes_max * 6].decode("utf-8", "ignore")
    if text.startswith('"'):
        text = _string_start(text)
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(msgspec.json.encode(text[:middle] + _ELLIPSIS)) <= bytes_max:
            low = middle
        else:
            high = middle - 1
    return msgspec.json.encode(text[:low] + _ELLIPSIS)


def _string_start(text: str) -> str:
    """The characters of a JSON string that may have been cut anywhere."""
    for surplus in range(7):
        try:
            whole = msgspec.json.decode(text[: len(text) - surplus].rstrip('"') + '"', type=str)
        except msgspec.DecodeError:
            continue
        return _BROKEN_TAIL.sub("", whole)
    return text


def _cut_values(
    values: Mapping[str, bytes], bytes_max: int, cut: dict[str, int]
) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    for name, value in values.items():
        if len(value) > bytes_max and name not in _KEPT_WHOLE:
            cut[name] = len(value)
            out[name] = cut_json(value, bytes_max)
        else:
            out[name] = value
    return out


def _event_bytes(event: SpanEvent) -> int:
    return len(event.name) + len(event.attributes)


def _cut_events(events: list[SpanEvent], bytes_max: int, total_max: int) -> list[SpanEvent]:
    """The first events, each with its big values cut, as many as fit."""
    out: list[SpanEvent] = []
    room = total_max
    for event in events:
        small = replace(event, attributes=_cut_object(event.attributes, bytes_max))
        room -= _event_bytes(small)
        if room < 0:
            break
        out.append(small)
    return out


def _cut_object(attributes: bytes, bytes_max: int) -> bytes:
    """A JSON object with its big values cut; an empty one where it is no object."""
    if len(attributes) <= bytes_max:
        return attributes
    try:
        values = msgspec.json.decode(attributes, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return b"{}"
    small = {
        name: msgspec.Raw(
            cut_json(bytes(value), bytes_max) if len(bytes(value)) > bytes_max else value
        )
        for name, value in values.items()
    }
    return msgspec.json.encode(small)


def _sizes(text: bytes) -> dict[str, int]:
    try:
        return msgspec.json.decode(text, type=dict[str, int])
    except msgspec.MsgspecError:
        return {}
