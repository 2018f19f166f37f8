"""Rows of MLflow's table of spans, without an entity for every span.

MLflow's store translates each span when it stores it: twelve translators are asked in turn for what
OpenTelemetry's dialects call inputs, tokens, models, and JSON in JSON is unwrapped. Where nothing of
a span can concern any of them, which is told by the strings in their own code, what is left of the
translation is done here, as the installed version does it; every other span goes through MLflow's.
"""

import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from types import CodeType
from typing import Any, Final, NamedTuple

import orjson
from mlflow.store.tracking.utils.trace_analytics import finite_float_or_none
from mlflow.tracing.constant import SpanAttributeKey
from mlflow.tracing.utils import (
    TraceJSONEncoder,
    calculate_cost_by_model_and_token_usage,
    dump_span_attribute_value,
)

import spanferry_schemas as wire
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_build_spans import SpanBuilder
from spanferry_worker.services.mlflow_text import Written, ascii_length, escaped, loaded
from spanferry_worker.services.mlflow_versions import KINDS, is_priced, sanitize_attributes

__all__ = ["READ_ATTRIBUTES", "SPAN_COLUMNS", "TAG_PREFIX", "SpanRow", "SpanRows"]

SPAN_COLUMNS: Final = (
    "trace_id", "experiment_id", "span_id", "parent_span_id", "name", "type", "status",
    "start_time_unix_nano", "end_time_unix_nano", "content", "input_cost", "output_cost",
    "total_cost", "model_name", "model_provider",
)  # fmt: skip
"""Of a row, in its order. MLflow computes `duration_ns` in the database."""

KEYS_MAX: Final = 10_000
SHAPES_MAX: Final = 1_000
"""Names of attributes, and sets of them, that are remembered; above it all are looked at again."""
_SHAPE_KEYS_MAX: Final = 50
"""Larger sets are not remembered: a thousand of them would take memory that nothing counts."""
_PART_CHARS_MIN: Final = 4
"""Shorter strings in the translators' code stand for whole names of attributes, longer ones for parts
of names too."""

READ_ATTRIBUTES: Final = frozenset({
    SpanAttributeKey.CHAT_USAGE, SpanAttributeKey.LLM_COST, *private.OWNER_ATTRIBUTES
})  # fmt: skip
"""From which a trace's own record is made, but for a root's inputs and outputs."""
TAG_PREFIX: Final = SpanAttributeKey.TRACE_TAG_PREFIX
"""Attributes that want to become tags of the trace: a dialect's, and rare."""

_CODES: Final = {
    "UNSET": "STATUS_CODE_UNSET",
    "OK": "STATUS_CODE_OK",
    "ERROR": "STATUS_CODE_ERROR",
}
_INPUTS: Final = SpanAttributeKey.INPUTS
_OUTPUTS: Final = SpanAttributeKey.OUTPUTS
_TYPE: Final = SpanAttributeKey.SPAN_TYPE
_USAGE: Final = SpanAttributeKey.CHAT_USAGE
_COST: Final = SpanAttributeKey.LLM_COST
_MODEL: Final = SpanAttributeKey.MODEL
_PROVIDER: Final = SpanAttributeKey.MODEL_PROVIDER
_COST_NAMES: Final = ("input_cost", "output_cost", "total_cost")
_NO_COSTS: Final = (None, None, None)
_NO_ANALYTICS: Final = (*_NO_COSTS, None, None)
_END: Final = b'"}, "links": []}'


class SpanRow(NamedTuple):
    """A span as it is stored, and what its trace's own record takes from it."""

    values: tuple[Any, ...]
    """In the order of SPAN_COLUMNS; the content in UTF-8."""
    size: int
    """Bytes of it as MLflow's SDK counts them."""
    given: Mapping[str, str]
    """Attributes before the translation, as JSON texts."""
    stored: Mapping[str, Any]
    """Attributes after it."""
    read: frozenset[str]
    """Those of READ_ATTRIBUTES that are among them, and TAG_PREFIX where a name begins so."""

    @property
    def is_root(self) -> bool:
        return self.values[3] is None

    @property
    def name(self) -> str:
        name: str = self.values[4]
        return name

    @property
    def failed(self) -> bool:
        status: str = self.values[6]
        return status == "ERROR"

    @property
    def start_ns(self) -> int:
        start: int = self.values[7]
        return start

    @property
    def end_ns(self) -> int | None:
        end: int | None = self.values[8]
        return end


class _Shape(NamedTuple):
    """What is known of spans whose attributes have these names."""

    concerns_translators: bool
    read: frozenset[str]
    """As of a SpanRow."""
    names: tuple[bytes, ...]
    """What stands in a span's text before each attribute's own text, and after the last."""
    growth: int
    """How many characters longer these are once what is not ASCII is escaped."""


class SpanRows:
    """Makes rows. Used by several threads at once."""

    def __init__(self, builder: SpanBuilder) -> None:
        self._builder = builder
        self._constants = frozenset(_strings_of_translators())
        self._parts = tuple(filter(_may_be_part, self._constants))
        self._concern: dict[str, bool] = {}
        self._remembered_shape = lru_cache(SHAPES_MAX)(self._made_shape)

    def row(self, trace_id: bytes, named: str, experiment_id: int, span: wire.Span) -> SpanRow:
        """One span's; `named` is MLflow's id of the trace."""
        builder = self._builder
        written = builder.written(named, span)
        shape = self._shape(tuple(written))
        if span.events or span.links or shape.concerns_translators:
            return self._translated(trace_id, named, experiment_id, span)
        texts, escapes, growths = zip(*written.values(), strict=True)
        given = dict(zip(written, texts, strict=True))
        status, message = builder.status(span)
        parent_id, name, end_ns = span.parent_id, builder.name(span), span.end_ns or None
        head = (
            f"{_start(trace_id)}{_base64(span.span_id)}, "
            f'"parent_span_id": {_base64(parent_id) if parent_id else "null"}, '
            f'"name": {_quoted(name)}, {KINDS[span.kind]}'
            f'"start_time_unix_nano": {span.start_ns}, "end_time_unix_nano": {end_ns or "null"}, '
            f'"events": [], "status": {{"code": "{_CODES[status]}", "message": {_quoted(message)}}}, '
        ).encode()
        content = _content(head, shape, escapes)
        size = len(content) - len(head) + ascii_length(head) + shape.growth + sum(growths)
        stored = _translated(given)
        if stored is not given:
            shape = self._shape(tuple(stored))
            content = _content(head, shape, _escapes(stored, written))
        values = (
            named, experiment_id, span.span_id.hex(), parent_id.hex() if parent_id else None, name,
            _type_of(given[_TYPE]), status, span.start_ns, end_ns, content,
            *_analytics(stored),
        )  # fmt: skip
        return SpanRow(values, size, given, stored, shape.read)

    def _translated(
        self, trace_id: bytes, named: str, experiment_id: int, span: wire.Span
    ) -> SpanRow:
        """By way of MLflow's entity and MLflow's translation."""
        entity = self._builder.entity(trace_id, span)
        size = len(json.dumps(entity.to_dict(), cls=TraceJSONEncoder).encode())
        content = private.translate_span_when_storing(entity)
        stored = content.get("attributes", {})
        values = (
            named, experiment_id, entity.span_id, entity.parent_id, entity.name, entity.span_type,
            entity.status.status_code.value, entity.start_time_ns, entity.end_time_ns,
            json.dumps(content, cls=TraceJSONEncoder, ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            ),
            *_analytics(stored),
        )  # fmt: skip
        given = private.attribute_texts(entity)
        return SpanRow(values, size, given, stored, _read((*given, *stored)))

    def _shape(self, keys: tuple[str, ...]) -> _Shape:
        if len(keys) > _SHAPE_KEYS_MAX:
            return self._made_shape(keys)
        return self._remembered_shape(keys)

    def _made_shape(self, keys: tuple[str, ...]) -> _Shape:
        concern = any(map(self._concerns_translators, keys))
        starts = [f'{_quoted(key)}: "'.encode() for key in keys]
        names = (b'"attributes": {' + starts[0], *(b'", ' + start for start in starts[1:]))
        growth = sum(ascii_length(start) - len(start) for start in starts)
        return _Shape(concern, _read(keys), (*names, _END), growth)

    def _concerns_translators(self, key: str) -> bool:
        """Whether one of MLflow's translators may look at an attribute of that name.

        They look by names and by parts of names that stand in their code. MLflow's own names are not
        among what they read.
        """
        if key.startswith("mlflow."):
            return False
        known = self._concern.get(key)
        if known is None:
            known = key in self._constants or any(part in key for part in self._parts)
            if len(self._concern) >= KEYS_MAX:
                self._concern = {}
            self._concern[key] = known
        return known


def _translated(texts: dict[str, str]) -> dict[str, str]:
    """What MLflow's translation makes of attributes that are no dialect's; the same dict where that
    is what they are."""
    stored = texts
    for key, text in texts.items():
        # a JSON text whose value is a text that is JSON itself loses one of the two layers
        if text[0] == '"' and text[1] in " \\[{":
            unwrapped = sanitize_attributes({key: text})[key]
            if unwrapped is not text:
                if stored is texts:
                    stored = texts.copy()
                stored[key] = unwrapped
    if _MODEL not in stored:
        model = _model_of(stored)
        if model is not None:
            stored = stored.copy() if stored is texts else stored
            stored[_MODEL] = dump_span_attribute_value(model)
    priced = is_priced(stored.get(_TYPE))
    if priced and _COST not in stored and _USAGE in stored and _MODEL in stored:
        cost = _cost_of(stored)
        if cost:
            stored = stored.copy() if stored is texts else stored
            stored[_COST] = dump_span_attribute_value(cost)
    return stored


def is_added_cost(stored: Mapping[str, str]) -> bool:
    """Whether a stored span's cost is what MLflow's store works out itself, of its model and tokens."""
    if _COST not in stored or not is_priced(stored.get(_TYPE)):
        return False
    try:
        return bool(json.loads(stored[_COST]) == _cost_of(stored))
    except ValueError:
        return False


def _model_of(attributes: Mapping[str, str]) -> str | None:
    """The model that inputs, else outputs name."""
    for key in (_INPUTS, _OUTPUTS):
        text = attributes.get(key)
        if text and '"model"' in text and text.lstrip()[:1] == "{":
            try:
                value = json.loads(text)
            except ValueError:
                continue
            if isinstance(value, dict) and (model := value.get("model")):
                return model if isinstance(model, str) else None
    return None


def _cost_of(attributes: Mapping[str, str]) -> dict[str, float] | None:
    try:
        usage, model = loaded(attributes[_USAGE]), loaded(attributes[_MODEL])
        provider = loaded(attributes[_PROVIDER]) if _PROVIDER in attributes else None
        cost: dict[str, float] | None = calculate_cost_by_model_and_token_usage(
            model, usage, provider
        )
    except Exception:  # noqa: BLE001  as MLflow: a span without a cost is stored all the same
        return None
    return cost


def _analytics(stored: Mapping[str, Any]) -> tuple[Any, ...]:
    """Costs, model and provider, as MLflow's store takes them from a span's attributes."""
    if _COST not in stored and _MODEL not in stored and _PROVIDER not in stored:
        return _NO_ANALYTICS
    costs: tuple[float | None, ...] = _NO_COSTS
    cost = stored.get(_COST)
    if cost:
        try:
            amounts = loaded(cost)
        except (TypeError, ValueError):
            amounts = None
        if isinstance(amounts, dict):
            costs = tuple(finite_float_or_none(amounts.get(name)) for name in _COST_NAMES)
    return (
        *costs,
        private.model_dimension(stored, _MODEL),
        private.model_dimension(stored, _PROVIDER),
    )


@lru_cache(maxsize=1_000)
def _type_of(text: str) -> str | None:
    span_type: str | None = json.loads(text)
    return span_type


def _content(head: bytes, shape: _Shape, escapes: Sequence[bytes]) -> bytes:
    """As json.dumps of the span without escapes for what is not ASCII, in a fifth of the time."""
    between = chain.from_iterable(zip(shape.names, escapes, strict=False))
    return b"".join((head, *between, shape.names[-1]))


def _escapes(stored: Mapping[str, str], written: Mapping[str, Written]) -> list[bytes]:
    """Where the translation has changed something of what was written."""
    escapes: list[bytes] = []
    for key, text in stored.items():
        before = written.get(key)
        same = before is not None and before.text is text
        escapes.append(before.escaped if before and same else escaped(text).escaped)
    return escapes


def _read(keys: Sequence[str]) -> frozenset[str]:
    found = READ_ATTRIBUTES.intersection(keys)
    return found | {TAG_PREFIX} if any(key.startswith(TAG_PREFIX) for key in keys) else found


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _base64(some: bytes) -> str:
    return f'"{binascii.b2a_base64(some, newline=False).decode()}"'


@lru_cache(maxsize=100)
def _start(trace_id: bytes) -> str:
    return f'{{"trace_id": {_base64(trace_id)}, "span_id": '


def _may_be_part(text: str) -> bool:
    """`lk.` is the beginning of a name, whatever its length."""
    return len(text) >= _PART_CHARS_MIN or (len(text) > 1 and text[-1] in "._")


def _strings_of_translators() -> Iterator[str]:
    """Every string constant in the code of MLflow's translators."""
    for module in private.translator_modules():
        for value in vars(module).values():
            yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for one in _inside(value):
            yield from _strings(one)


def _inside(value: Any) -> Iterable[Any]:
    """Where strings may be in what a module or a class holds."""
    match value:
        case CodeType():
            return value.co_consts
        case dict():
            return (*value.keys(), *value.values())
        case list() | tuple() | set() | frozenset():
            return value
        case staticmethod() | classmethod() | property():
            return (getattr(value, "__func__", None) or getattr(value, "fget", None),)
        case type() if value.__module__.startswith(private.TRANSLATORS):
            return vars(value).values()
        case _:
            code = None if isinstance(value, type) else getattr(value, "__code__", None)
            return () if code is None else (code,)
