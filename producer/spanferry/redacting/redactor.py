"""Redaction at work: on JSON texts as they are sent, and on plain texts."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec

from spanferry import values
from spanferry.log import say_once
from spanferry.redacting.assignments import without_fields
from spanferry.redacting.fields import Fields, Needles, fold
from spanferry.redacting.presets import FIELDS, RULES, Rule
from spanferry.redaction import Redaction
from spanferry.stopping import let_through
from spanferry_schemas import mlflow_keys

__all__ = ["WITHHELD", "Redactor"]

WITHHELD: Final = "[REDACTED:withheld]"
"""In the place of a value whose redaction has failed."""

_WITHHELD_JSON: Final = f'"{WITHHELD}"'.encode()
_NESTED_MARK: Final = "[REDACTED:nested too deeply]"
_NESTING_MAX: Final = 6
"""JSON texts in strings of JSON texts."""

_CARD_INTS_FROM: Final = 10**12
"""Smaller integers are no numbers of cards."""

_JSON_BYTES_MIN: Final = 7
"""In less there is neither an object with a name and a value in it nor what a preset looks for."""

_NAMES_MAX: Final = 1_024
_NAME_CHARS_MAX: Final = 256
_OWN_KEY: Final = "mlflow."
"""Names that begin so are MLflow's, and no fields."""

_NO_FUNCTION: Final = frozenset(
    {
        mlflow_keys.SPAN_LOG_LEVEL,
        mlflow_keys.SPAN_TOKEN_USAGE,
        mlflow_keys.SPAN_COST,
        mlflow_keys.SPAN_FUNCTION_NAME,
    }
)
"""Attributes that MLflow's own code reads: not shown to the app's function."""


class Redactor:
    """One redaction, compiled. Never raises; safe in any thread."""

    def __init__(self, redaction: Redaction) -> None:
        presets = redaction.named_presets()
        named = [(field, _word(field)) for field in redaction.fields]
        self._fields = Fields([*named, *(pair for preset in presets for pair in FIELDS[preset])])
        self._rules = [rule for preset, rule in RULES.items() if preset in presets]
        self._patterns = [_rule_of(*pair) for pair in redaction.named_patterns()]
        self._all: _Rules = [(rule.replaced, True) for rule in (*self._rules, *self._patterns)]
        needles = {one for rule in self._rules for one in rule.needles}
        self._needles = Needles(needles | self._fields.needles)
        self._must_walk = bool(self._patterns)
        self._ints_from = -math.inf if self._patterns else _CARD_INTS_FROM
        self._folds = bool(needles or self._fields) or any(rule.folds for rule in self._rules)
        self._function = redaction.function
        self._names: dict[str, str] = {}
        self.identities: Final = redaction.identities
        self.keeps_attachments: Final = redaction.attachments
        self._redacted = 0
        self._withheld = 0

    @property
    def counts(self) -> tuple[int, int]:
        """Values of which something was replaced, and those that were withheld."""
        return self._redacted, self._withheld

    def forget(self) -> None:
        """Count from zero."""
        self._redacted = self._withheld = 0

    def json(self, data: bytes, key: str, place: str | None = None) -> bytes:
        """A JSON text without what is to be redacted; the same object where that is nothing.

        `key` is the name under which it is sent, which may be a field's.
        """
        try:
            if self._function is None or key in _NO_FUNCTION:
                return self._json(data, key)
            made = values.encode(self._function(_decoded(data), place or key))
            if made != data:
                self._redacted += 1
            return self._json(made, key)
        except BaseException as error:  # noqa: BLE001  the app must not see it, and nobody the value
            let_through(error)
            self._say_withheld(error)
            return _WITHHELD_JSON

    def object(self, data: bytes, place: str) -> bytes:
        """The same of a JSON object, which stays one."""
        redacted = self.json(data, "", place)
        return redacted if redacted.startswith(b"{") else b'{"redacted":' + redacted + b"}"

    def text(self, text: str, key: str, place: str | None = None) -> str:
        """The same of a text that is no JSON."""
        try:
            redacted = text
            if self._function is not None:
                redacted = values.text(self._function(text, place or key))
            mark = self._mark_of(key)
            redacted = self._text(redacted) if mark is None else mark
        except BaseException as error:  # noqa: BLE001  the app must not see it, and nobody the value
            let_through(error)
            self._say_withheld(error)
            return WITHHELD
        if redacted != text:
            self._redacted += 1
        return redacted

    def name(self, name: str) -> str:
        """The same of a span's name or type, of which there are few."""
        if self._function is not None:
            return self.text(name, "", "name")
        if len(name) > _NAME_CHARS_MAX:
            return self.text(name, "")
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= _NAMES_MAX:
                self._names.clear()
            known = self._names[name] = self.text(name, "")
        return known

    def texts(self, texts: Mapping[str, str], place: str) -> dict[str, str]:
        """The same of tags and the like, with their names."""
        if self._function is not None:
            return {
                self.key(key): self.text(value, key, f"{place} {key}")
                for key, value in texts.items()
            }
        return {
            self.key(key): self.name(value) if self._mark_of(key) is None else self.text(value, key)
            for key, value in texts.items()
        }

    def key(self, key: str) -> str:
        """The same of the name of an attribute, a tag or the like."""
        return key if key.startswith(_OWN_KEY) or not self._all else self.name(key)

    def _json(self, data: bytes, key: str) -> bytes:
        mark = self._mark_of(key)
        if mark is not None and data != b"null":
            self._redacted += 1
            return values.encode(mark)
        if len(data) < _JSON_BYTES_MIN and not self._must_walk:
            return data
        if self._must_walk or self._may_hide(data):
            rules, fields = self._all, bool(self._fields)
        else:
            rules, fields = self._suspects(data)
            if not rules and not fields:
                return data
        holder = [_decoded(data)]
        names = self._fields if fields else None
        if _Walk(rules, names, self._ints_from).changed(holder):
            self._redacted += 1
        # Encoded again though nothing has changed: what stands twice under one name was not looked at.
        seen = values.encode(holder[0])
        return data if seen == data else seen

    def _may_hide(self, data: bytes) -> bool:
        """Whether what is looked for may be in it with other letters than its own: as escapes, or in a
        form or a query."""
        if _OTHER_ESCAPE.search(data) is not None:
            return True
        if not self._fields or not (b"%" in data or b"+" in data):
            return False
        return _FORM.search(data) is not None or _IN_QUERY.search(data) is not None

    def _suspects(self, data: bytes) -> tuple["_Rules", bool]:
        """What may be in it: rules, none where none may, and whether fields."""
        folded = fold(data) if self._folds else b""
        if b"%" in data and _ENCODED_SIGN.search(data) is not None:
            folded += _ENCODED_BLANK.sub(b"", folded)
            found = self._needles.found_in(folded, anywhere=True)
        else:
            found = self._needles.found_in(folded)
        rules = [
            (
                rule.replaced,
                not found.isdisjoint(rule.needles) or rule.may_be_in(data, folded),
            )
            for rule in self._rules
        ]
        if not any(suspected for _, suspected in rules):
            rules = []
        return rules, not found.isdisjoint(self._fields.needles)

    def _text(self, text: str) -> str:
        holder = [text]
        walk = _Walk(self._all, self._fields or None, self._ints_from)
        return holder[0] if walk.changed(holder) else text

    def _mark_of(self, key: str) -> str | None:
        return None if not self._fields or key.startswith(_OWN_KEY) else self._fields.mark_of(key)

    def _say_withheld(self, error: BaseException) -> None:
        self._withheld += 1
        say_once(
            "redaction",
            "redaction failed: the value is withheld, and not sent: %s",
            type(error).__name__,  # its text may hold what is to be redacted
        )


class _Walk:
    """One walk over one value that nobody else has: secrets are replaced in place."""

    __slots__ = ("_fields", "_ints_from", "_nesting", "_rules", "_same_keys")

    def __init__(
        self,
        rules: "_Rules",
        fields: Fields | None,
        ints_from: float,
        nesting: int = 0,
    ) -> None:
        self._rules = rules
        self._fields = fields
        self._ints_from = ints_from
        self._nesting = nesting
        self._same_keys: set[str] = set()
        """Keys without a secret in them: most come again and again."""

    def changed(self, holder: list[Any]) -> bool:
        """Whether anything was replaced in the list, which stands around the value."""
        waiting: list[Any] = [holder]
        changed = False
        while waiting:
            node = waiting.pop()
            if type(node) is dict:
                changed = self._walk_dict(cast("dict[str, Any]", node), waiting) or changed
            else:
                changed = self._walk_list(cast("list[Any]", node), waiting) or changed
        return changed

    def _walk_list(self, node: list[Any], waiting: list[Any]) -> bool:
        changed = False
        for index, item in enumerate(node):
            kind = type(item)
            if kind is str:
                replaced: Any = self._text(item)
            elif kind is dict or kind is list:
                waiting.append(item)
                continue
            elif kind is int and item >= self._ints_from:
                replaced = self._int(item)
            else:
                continue
            if replaced is not item:
                node[index] = replaced
                changed = True
        return changed

    def _walk_dict(self, node: dict[str, Any], waiting: list[Any]) -> bool:
        changed = renamed = False
        mark_of = None if self._fields is None else self._fields.mark_of
        same_keys = self._same_keys
        for key, item in node.items():
            if key not in same_keys:
                if self._text(key) is key:
                    same_keys.add(key)
                else:
                    renamed = True
            kind = type(item)
            mark = None if mark_of is None else mark_of(key)
            if mark is not None:
                replaced: Any = item if item is None or item == mark else mark
            elif kind is str:
                replaced = self._text(item)
            elif kind is dict or kind is list:
                waiting.append(item)
                continue
            elif kind is int and item >= self._ints_from:
                replaced = self._int(item)
            else:
                continue
            if replaced is not item:
                node[key] = replaced
                changed = True
        if renamed:
            self._rename(node)
        return changed or renamed

    def _rename(self, node: dict[str, Any]) -> None:
        """Give keys that hold a secret their marks; those that are the same then, a number too."""
        pairs = list(node.items())
        node.clear()
        for key, item in pairs:
            name = unique = self._text(key)
            number = 1
            while unique in node:
                number += 1
                unique = f"{name} {number}"
            node[unique] = item

    def _int(self, number: int) -> int | str:
        digits = str(number)
        replaced = self._replaced(digits)
        if replaced is digits:
            return number
        mark = _A_MARK.search(replaced)
        return replaced if mark is None else mark.group()

    def _text(self, text: str) -> str:
        first = text[:1]
        if (first in _JSON_STARTS or first.isspace()) and text.lstrip()[:1] in _JSON_STARTS:
            within = self._within(text)
            if within is not None:
                return within
        return self._replaced(text)

    def _within(self, text: str) -> str | None:
        """The JSON text in a string, redacted; None where there is none."""
        try:
            holder = [_decoded(text.encode())]
        except (ValueError, RecursionError):
            return None
        if self._nesting >= _NESTING_MAX:
            return _NESTED_MARK
        walk = _Walk(self._rules, self._fields, self._ints_from, self._nesting + 1)
        if walk.changed(holder) or _repeats(text):
            return values.encode(holder[0]).decode()
        return text

    def _replaced(self, text: str) -> str:
        """By fields, and by the rules that are suspected; once something was found, by those behind it
        too, because what stood around it may have hidden another secret."""
        changed = False
        if self._fields is not None and (":" in text or "=" in text or "%" in text):
            replaced = without_fields(text, self._fields)
            if replaced is not text:
                text, changed = replaced, True
        for rule, suspected in self._rules:
            if suspected or changed:
                replaced = rule(text)
                if replaced is not text:
                    text, changed = replaced, True
        return text


_JSON_STARTS: Final = frozenset('{["')
_Rules: TypeAlias = list[tuple[Callable[[str], str], bool]]
"""In their order; with each, whether it may find something."""

_OTHER_ESCAPE: Final = re.compile(rb"\\[u/]")
_FORM: Final = re.compile(rb'"[^\s=&:?{}()<>"\'\\/]{1,200}=')
"""A string that begins as a form does."""
_IN_QUERY: Final = re.compile(rb'[%+][^\s=&:?{}()<>"\'\\/%+]{1,200}=(?![="\\])')
"""The end of a name as forms and queries have it."""
_ENCODED_SIGN: Final = re.compile(rb"%(?:25){0,4}3[aAdD]")
_ENCODED_BLANK: Final = re.compile(rb"%0+[df]?|\+")
"""Of an encoded name, folded: `credit%2520card%3D`."""
_A_MARK: Final = re.compile(r"\[REDACTED:[^\]]*\]")


def _repeats(text: str) -> bool:
    """Whether a name stands twice in an object of a JSON text: nobody has looked at the first."""
    twice = False

    def pairs(found: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len(found) != len({name for name, _ in found})

    json.loads(text, object_pairs_hook=pairs)
    return twice


def _decoded(data: bytes) -> Any:
    """The data in a JSON text, NaN and Infinity of Python's JSON included. Raises ValueError."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)


def _word(field: str) -> str:
    """What the mark of a field's value says."""
    return re.sub(r"[^\w .-]", "", field).strip(" _-") or "field"


def _rule_of(name: str, pattern: re.Pattern[str]) -> Rule:
    """A pattern of the app's own, of which nothing is known."""
    mark = f"[REDACTED:{name}]"

    def replaced(text: str) -> str:
        return pattern.sub(lambda _: mark, text) if pattern.search(text) else text

    return Rule((), False, lambda _data, _folded: True, replaced)
