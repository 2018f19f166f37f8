"""Any value of the app's as one JSON text: never raises, never waits, never consumes the value.

Plain data goes through one C call during which no Python code runs, so nothing can change the value
meanwhile: orjson, which writes long strings three times as fast, for what JSON itself knows, msgspec
for dates, sets, dataclasses and the like. Both walk containers without owning their members: a hook
that ran the app's code from inside one could pull the floor away under it. Everything else is
therefore unfolded here first, on snapshots, and then encoded. Meaning as MLflow's TraceJSONEncoder.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import msgspec
import orjson

from spanferry.log import say_once
from spanferry.process import PROCESS
from spanferry.stopping import let_through

__all__ = [
    "AS_IT_CAME",
    "ITS_TEXT",
    "SHORTENED",
    "STRICT",
    "UNFOLDING",
    "chunk_text",
    "clean",
    "decode",
    "dumps",
    "encode",
    "text",
]

_PARTS_MAX: Final = 20_000
"""Values that are unfolded one by one, at some 4 us each; a note stands for what comes after."""

_DEPTH_MAX: Final = 100
"""Levels that are unfolded; readers of JSON give up at about 1,000."""

_ATTEMPT_DEPTH_MAX: Final = 8
"""Levels down to which a part is tried as plain data first, so that one odd leaf costs little."""

_ARRAY_ITEMS_MAX: Final = 10_000
"""Larger numpy arrays become numpy's own short text, which is what MLflow stores of any."""

_INT_BITS_MAX: Final = 10_000
"""Longer integers are described: Python reads at most 4,300 digits."""

_CANNOT_RECORD: Final = "<spanferry: cannot record"
_TOO_LARGE: Final = "<spanferry: too many parts to record>"
SHORTENED: Final = "<spanferry: not recorded, that takes too long>"
"""Stands for what the budget guard has left out."""

_TOO_DEEP: Final = "<spanferry: nested too deeply to record>"

_CONSUMED_BY_STR: Final = frozenset(
    {"AsyncStreamingResponse", "StreamingResponse", "StreamingAgentChatResponse"}
)
"""llama_index classes whose text consumes the stream; MLflow stores their type instead."""

dumps: Final = orjson.dumps
STRICT: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_APPEND_NEWLINE
)
"""orjson refuses what it would write otherwise than msgspec.

`dumps(value, None, STRICT)[:-1]` is the text: orjson keeps all the memory that it wrote into, eight
times a string's length and 4 KB at least, and a slice is the cheapest copy that takes what it needs.
"""

ITS_TEXT: Final = slice(None, -1)
"""For `[:-1]`, which makes one each time."""

AS_IT_CAME: Final = STRICT & ~orjson.OPT_APPEND_NEWLINE
"""The same without the copy: where `PROCESS.roomy`."""

_encode = msgspec.json.Encoder().encode


Attach: TypeAlias = Callable[[Any], str]

_ATTACHMENTS: Final = "mlflow.tracing.attachments"
"""Where MLflow's Attachment comes from."""


class _UnfoldingLimit:
    """How much of one value is unfolded, where it has to be."""

    __slots__ = ("parts_max",)

    def __init__(self) -> None:
        self.parts_max = _PARTS_MAX
        """Read once for every value."""

    def limit(self, parts_max: int | None) -> None:
        """Fewer from now on, and `SHORTENED` for the rest; None: as many as by default."""
        self.parts_max = _PARTS_MAX if parts_max is None else min(parts_max, _PARTS_MAX)

    @property
    def note(self) -> str:
        """What stands for the parts above it."""
        return _TOO_LARGE if self.parts_max == _PARTS_MAX else SHORTENED


UNFOLDING: Final = _UnfoldingLimit()
"""In force for all threads."""


class _NotJsonError(Exception):
    """A cycle, or a key that JSON does not have: MLflow stores the repr of the whole value."""


def encode(value: object, attach: Attach | None = None) -> bytes:
    """`value` as one JSON text in UTF-8, as it is now.

    `attach` is given every MLflow Attachment in it and answers the text that stands for it.
    """
    try:
        return dumps(value, None, STRICT)[:-1]
    except BaseException as error:  # noqa: BLE001  whatever a user's value does
        let_through(error)
        return _encode_other(value, attach)


def decode(encoded: bytes) -> Any:
    """The data in a JSON text; the text itself where it is too deep to read."""
    try:
        return msgspec.json.decode(encoded)
    except RecursionError:
        return encoded.decode("utf-8", "replace")


def text(value: object) -> str:
    """str(value), else its repr, else a note; always encodable in UTF-8."""
    if type(value) is str:
        return value if value.isascii() else clean(value)
    try:
        return clean(str.__str__(str(value)))
    except BaseException as error:  # noqa: BLE001  whatever a user's value does
        let_through(error)
        return _representation(value)


def clean(value: str) -> str:
    """The string itself, or with `?` for lone surrogates, which UTF-8 does not have."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def chunk_text(encoded: bytes) -> str:
    """The JSON text that MLflow stores of an encoded item of a stream: ASCII, Python's separators."""
    return json.dumps(decode(encoded))


def _representation(value: object) -> str:
    try:
        return clean(str.__str__(repr(value)))
    except BaseException as error:  # noqa: BLE001  whatever a user's value does
        let_through(error)
        return _note(value)


def _shown(value: object) -> str:
    """As `text`, and said once where that is no more than a note."""
    shown = text(value)
    if shown.startswith(_CANNOT_RECORD):
        say_once(
            "value-unknown",
            "neither str() nor repr() of a value works: %s stands for it. Record its fields instead",
            shown,
        )
    return shown


def _note(value: object) -> str:
    try:
        return clean(f"{_CANNOT_RECORD} {type(value).__name__}>")
    except BaseException as error:  # noqa: BLE001  a metaclass can do anything
        let_through(error)
        return f"{_CANNOT_RECORD} this value>"


def _encode_other(value: object, attach: Attach | None) -> bytes:
    """What orjson does not take."""
    try:
        return _encode(value)
    except BaseException as error:  # noqa: BLE001  whatever a user's value does
        let_through(error)
    PROCESS.slow_values = True
    try:
        return _encode(_Unfolding(attach).plain(value, 0))
    except BaseException as error:  # noqa: BLE001  whatever a user's value does
        let_through(error)
        shown = _representation(value)
    say_once(
        "value-repr",
        "a value of %s cannot be JSON (it holds itself, or has keys that are no text): its repr() is "
        "recorded. Record the parts that you want to see",
        type(value),
    )
    return _encode(shown)


class _Unfolding:
    """One walk over one value, on snapshots of its containers; bounded in nodes and depth."""

    __slots__ = ("_attach", "_nodes_left", "_path")

    def __init__(self, attach: Attach | None) -> None:
        self._attach = attach
        self._nodes_left = UNFOLDING.parts_max
        self._path: set[int] = set()

    def plain(self, value: Any, depth: int) -> Any:
        """What msgspec encodes without calling anybody. Raises _NotJsonError."""
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is str or kind is int:
            return clean(value) if kind is str else _plain_int(value)
        self._nodes_left -= 1
        if self._nodes_left < 0 or depth > _DEPTH_MAX:
            note = UNFOLDING.note if self._nodes_left < 0 else _TOO_DEEP
            if note is not SHORTENED:
                say_once(
                    "value-size",
                    "a value with more than %d parts, or nested deeper than %d, is recorded in part: "
                    "record less of it, or text",
                    _PARTS_MAX,
                    _DEPTH_MAX,
                )
            return note
        if 0 < depth <= _ATTEMPT_DEPTH_MAX or kind not in _CONTAINERS:
            try:
                return msgspec.Raw(_encode(value))
            except BaseException as error:  # noqa: BLE001  not plain data: unfold it
                let_through(error)
        return self._enter(value, kind, depth + 1)

    def _enter(self, value: Any, kind: type, depth: int) -> Any:
        identity = id(value)
        if identity in self._path:
            raise _NotJsonError
        self._path.add(identity)
        try:
            if issubclass(kind, dict):
                pairs = list(dict.items(cast("dict[Any, Any]", value)))
                return {_plain_key(key): self.plain(item, depth) for key, item in pairs}
            members = _members(value, kind)
            if members is not None:
                return [self.plain(member, depth) for member in members]
            return self._foreign(value, kind, depth)
        finally:
            self._path.discard(identity)

    def _foreign(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, str):
            return clean(str.__str__(value))
        if issubclass(kind, int):
            return _plain_int(int.__int__(value))
        if issubclass(kind, float):
            return float.__float__(value)
        if self._attach is not None and kind.__module__ == _ATTACHMENTS:
            return self._attach(value)
        try:
            content = _content(value, kind)
        except BaseException as error:  # noqa: BLE001  whatever a user's value does
            let_through(error)
            content = value
        return _shown(value) if content is value else self.plain(content, depth)


_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})


def _members(value: Any, kind: type) -> list[Any] | None:
    """A list, tuple or set as a list of its own, taken in one step; None for anything else."""
    if issubclass(kind, list):
        return list.copy(cast("list[Any]", value))
    if issubclass(kind, tuple):
        return list(tuple.__iter__(cast("tuple[Any, ...]", value)))
    if issubclass(kind, set):
        return list(set.__iter__(cast("set[Any]", value)))
    if issubclass(kind, frozenset):
        return list(frozenset.__iter__(cast("frozenset[Any]", value)))
    return None


def _content(value: Any, kind: type) -> Any:
    """The data in a pydantic model, a dataclass or a numpy value; the value itself where it has none."""
    if callable(getattr(kind, "model_dump", None)):
        return _retry(value.model_dump)
    of = value if issubclass(kind, type) else kind  # of a class itself MLflow stores the defaults
    if dataclasses.is_dataclass(of):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(of)}
    module = kind.__module__
    if module == "numpy":
        return _numpy_content(value)
    if kind.__name__ in _CONSUMED_BY_STR and module.startswith("llama_index."):
        return text(kind)
    return value


def _retry(call: Any) -> Any:
    """Once more where another thread changed a dict in the middle."""
    try:
        return call()
    except RuntimeError:
        return call()


def _numpy_content(value: Any) -> Any:
    if value.size > _ARRAY_ITEMS_MAX:
        return value
    content = value.tolist()
    return value if type(content) is type(value) else content


def _plain_int(value: int) -> int | str:
    bits = value.bit_length()
    return value if bits <= _INT_BITS_MAX else f"<spanferry: an integer of {bits} bits>"


def _plain_key(key: Any) -> str:
    """A dict's key as json.dumps writes it. Raises _NotJsonError where it refuses."""
    kind = type(key)
    if issubclass(kind, str):
        return clean(str.__str__(key))
    if key is None:
        return "null"
    if kind is bool:
        return "true" if key else "false"
    if issubclass(kind, int):
        return int.__repr__(key)
    if issubclass(kind, float):
        return float.__repr__(key)
    raise _NotJsonError
