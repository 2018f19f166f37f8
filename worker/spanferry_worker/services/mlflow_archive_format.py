"""Stored spans as `traces.pb`, what MLflow's archive keeps of a trace: an OTLP TracesData message.

MLflow's own way there copies every value of every payload once for each level it lies in, and says nothing
where the format cannot hold one. Here the attributes are encoded directly, the rest of a span by MLflow, and
what would not be read back as it is stored is refused.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import DecodeError
from mlflow.entities import Span
from mlflow.tracing.constant import SpanAttributeKey
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from spanferry_schemas.cutting import cut_json
from spanferry_worker.services import mlflow_private as private

__all__ = ["InexactError", "payload", "remainder"]

REMAINDER_BYTES: Final = 1_000
"""Of each attribute that stays in the database, to be searched."""

_REMEMBERED_CHARS: Final = 60
"""Of names in objects: thousands of these have the same."""

_TEXT: Final = b"\x0a"  # AnyValue.string_value
_TRUE: Final = b"\x10\x01"
_FALSE: Final = b"\x10\x00"
_INTEGER: Final = b"\x18"
_DOUBLE: Final = b"\x21"
_ARRAY: Final = b"\x2a"
_OBJECT: Final = b"\x32"
_ITEM: Final = b"\x0a"  # ArrayValue.values, KeyValueList.values, KeyValue.key
_VALUE: Final = b"\x12"  # KeyValue.value
_ATTRIBUTE: Final = b"\x4a"  # Span.attributes
_SPAN: Final = b"\x12"  # ScopeSpans.spans
_SCOPE: Final = b"\x12"  # ResourceSpans.scope_spans
_NO_RESOURCE: Final = b"\x0a\x00"
_RESOURCE_SPANS: Final = b"\x0a"
_INTEGER_MIN: Final = -(2**63)
_INTEGER_MAX: Final = 2**63 - 1
_ALL_BITS: Final = 2**64 - 1


class InexactError(Exception):
    """The archive's format cannot hold what is stored as it is; the message says why."""


def payload(contents: Sequence[str]) -> bytes:
    """`traces.pb` of a trace's rows, by their column `content`. Raises InexactError.

    MLflow reads from it the very spans that it reads from the rows.
    """
    if not contents:
        raise InexactError("there are no spans")
    spans = [_field(_SPAN, _span(content)) for content in contents]
    data = _field(_RESOURCE_SPANS, _NO_RESOURCE + _field(_SCOPE, b"".join(spans)))
    try:
        TracesData.FromString(data)  # type: ignore[no-untyped-call]
    except DecodeError as error:
        raise InexactError("values are nested deeper than readers of OTLP go") from error
    return data


def remainder(content: str) -> str:
    """What stays of a row's `content` to be searched: its attributes, the long ones cut; no events."""
    plain = json.loads(content)
    plain["events"] = []
    plain["attributes"] = {
        key: _cut(text) if isinstance(text, str) else text
        for key, text in (plain.get("attributes") or {}).items()
    }
    return json.dumps(plain, ensure_ascii=False)


def _cut(text: str) -> str:
    if len(text) <= REMAINDER_BYTES:
        return text
    return cut_json(text.encode("utf-8", "replace"), REMAINDER_BYTES).decode()


def _span(content: str) -> bytes:
    try:
        plain = private.translate_loaded_span(json.loads(content))
        texts = plain["attributes"]
        request_id = texts[SpanAttributeKey.REQUEST_ID]
        values = {key: json.loads(text) for key, text in texts.items()}
        attributes = [_field(_ATTRIBUTE, _pair(key, value)) for key, value in values.items()]
        bare = Span.from_dict({**plain, "attributes": {SpanAttributeKey.REQUEST_ID: request_id}})
        proto: Any = bare.to_otel_proto()
        back = Span.from_otel_proto(proto, preserve_request_id=True)
    except InexactError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InexactError(f"a span is not as MLflow stores it: {error!r}") from error
    if back.to_dict() != bare.to_dict():
        raise InexactError("a span has not ended, or has events or links that OTLP cannot hold")
    proto.ClearField("attributes")
    rest: bytes = proto.SerializeToString()
    return rest + b"".join(attributes)


def _pair(key: str, value: Any) -> bytes:
    return _field(_ITEM, key.encode()) + _field(_VALUE, _KINDS[type(value)](value))


def _text(value: str) -> bytes:
    return _field(_TEXT, value.encode())


def _integer(value: int) -> bytes:
    if not _INTEGER_MIN <= value <= _INTEGER_MAX:
        raise InexactError("a whole number has more than 64 bits")
    return _INTEGER + _varint(value & _ALL_BITS)


def _array(value: list[Any]) -> bytes:
    parts: list[bytes] = []
    for one in value:
        item = _KINDS[type(one)](one)
        length = len(item)
        parts += (_ITEM, _BYTES[length] if length < 0x80 else _varint(length), item)
    return _field(_ARRAY, b"".join(parts))


def _object(value: dict[str, Any]) -> bytes:
    parts: list[bytes] = []
    for key, one in value.items():
        item = _KINDS[type(one)](one)
        length = len(item)
        pair = b"".join((_name(key), _BYTES[length] if length < 0x80 else _varint(length), item))
        length = len(pair)
        parts += (_ITEM, _BYTES[length] if length < 0x80 else _varint(length), pair)
    return _field(_OBJECT, b"".join(parts))


def _name(key: str) -> bytes:
    """Of a pair, up to the length of its value."""
    return _short_name(key) if len(key) <= _REMEMBERED_CHARS else _made_name(key)


@lru_cache(maxsize=10_000)
def _short_name(key: str) -> bytes:
    return _made_name(key)


def _made_name(key: str) -> bytes:
    return _field(_ITEM, key.encode()) + _VALUE


def _field(tag: bytes, content: bytes) -> bytes:
    length = len(content)
    return tag + (_BYTES[length] if length < 0x80 else _varint(length)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_double: Final = struct.Struct("<d").pack
_KINDS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"",
    bool: lambda value: _TRUE if value else _FALSE,
    str: _text,
    int: _integer,
    float: lambda value: _DOUBLE + _double(value),
    list: _array,
    dict: _object,
}
"""What is in an AnyValue, by what JSON is in Python."""
_BYTES: Final = [bytes([number]) for number in range(0x80)]
