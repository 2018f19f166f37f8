"""A span without its payloads: the skeleton that sampling keeps of a big trace."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from spanferry_schemas import Span, SpanEvent
from spanferry_schemas.cutting import CUT_ATTRIBUTE, cut_json, cut_object, cut_sizes
from spanferry_schemas.mlflow_keys import SPAN_TOKEN_USAGE

__all__ = ["CUT_ATTRIBUTE", "cut_json", "skeleton"]

_KEPT_WHOLE: Final = frozenset({SPAN_TOKEN_USAGE, CUT_ATTRIBUTE})


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
        cut = {**cut, **cut_sizes(earlier)}
    attributes[CUT_ATTRIBUTE] = msgspec.json.encode(cut)
    return replace(span, attributes=attributes, events=events, links=links)


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
        small = replace(event, attributes=cut_object(event.attributes, bytes_max))
        room -= _event_bytes(small)
        if room < 0:
            break
        out.append(small)
    return out
