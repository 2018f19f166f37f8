"""Fields in texts that are no JSON, or not all of it: cut bodies, lines of JSON, forms, queries, reprs.

Nothing is parsed here, because what is cut or broken cannot be. Wherever a colon or an equals sign
stands the name before it decides: where it is a field's, what follows is replaced, up to where the value
ends; where that cannot be told, up to the end of the text.

It takes linear time, whatever the text: a name is looked for in a bounded piece before a sign, and no
value is looked at twice.
"""

import contextlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote_plus, unquote_plus

from spanferry.redacting.ends import Stop, behind, end_of_encoded, end_of_line, end_of_value
from spanferry.redacting.places import ESCAPED_NAME_CHARS, NAME_CHARS

__all__ = ["Names", "begins_as_form", "without_fields"]

MarkOf: TypeAlias = Callable[[str], str | None]

_QUOTES: Final = ("'", '"')

_WORD_BACKWARDS: Final = re.compile(r"[^\s:=,;&?{}()<>\"'\\|/#]*+")
_WORDS_MAX: Final = 3
"""`credit card number: 4111`: so many words may be a name that is in no quotes."""
_AROUND_WORDS: Final = "$@*`~!^-"
_BEFORE_LINES: Final = " \t>*-#"
_BACKSLASHES: Final = re.compile(r"\\+")
_PARTS: Final = re.compile(r"[.\[\]]+")

_SPACE: Final = re.compile(r"\s*+")
_BLANKS: Final = re.compile(r"[ \t]*+")

_NOTHING: Final = frozenset({"null", "None"})
_IS_MARK: Final = re.compile(r"[\\\"']*\[REDACTED:[\w .-]{1,200}\][\\\"']*")
_UNREADABLE: Final = "[REDACTED:withheld]"

_FORM: Final = re.compile(r"[^\s=&:?{}()<>\"'\\/]{1,200}=")
_FORMS_MAX: Final = 3
"""Forms in values of forms."""


class Names(Protocol):
    """The names of fields."""

    def mark_of(self, key: str, /) -> str | None:
        """What takes the place of a name's value; None where that may stay."""
        ...

    def signs(self, text: str, /) -> list[re.Match[str]]:
        """The colons and equals signs that may stand behind such names."""
        ...


class _Name(NamedTuple):
    mark: str
    quote: str
    """What its quotes are, with the backslashes before them; empty where it has none."""
    start: int
    """Where it begins in the text."""
    first: bool = False
    """It is the first of its line, and in no quotes."""
    query: bool = False
    """It stands in a query, in no quotes."""

    @property
    def begin(self) -> int:
        """Where it begins with its quote."""
        return self.start - len(self.quote)


def begins_as_form(text: str) -> bool:
    """Whether it may be a form's body, in whose names a letter may be written as %41."""
    return _FORM.match(text) is not None


def without_fields(text: str, names: Names, forms: int = 0) -> str:
    """The text with marks for the values of fields; the very same where there are none."""
    if "\0" in text:  # of another encoding, with a zero between two letters
        legible = text.replace("\0", "")
        return text if without_fields(legible, names) == legible else _UNREADABLE
    signs = names.signs(text)
    if not signs:
        return text
    form = begins_as_form(text) and ("&" in text or "\n" not in text.rstrip())
    if form:
        shown = _without_form_fields(text, names, signs, forms)
        signs = signs if shown is text else names.signs(shown)
        text = shown
    kept: list[str] = []
    done = 0
    for start, end, mark in _values(text, names.mark_of, signs, form=form):
        kept += text[done:start], mark
        done = end
    return "".join((*kept, text[done:])) if kept else text


def _without_form_fields(text: str, names: Names, signs: list[re.Match[str]], forms: int) -> str:
    kept: list[str] = []
    copied = done = 0
    for sign in signs:
        if sign.start() < done:
            continue  # of a pair that was looked at
        start = max(done, text.rfind("&", done, sign.start()) + 1)
        end = text.find("&", sign.start())
        end = len(text) if end < 0 else end
        pair = _without_pair(text[start:end], names, forms)
        if pair is not None:
            kept += text[copied:start], pair
            copied = end
        done = end
    return "".join((*kept, text[copied:])) if kept else text


def _without_pair(pair: str, names: Names, forms: int) -> str | None:
    """One pair of a form; None where nothing in it is replaced."""
    name, _, value = pair.partition("=")
    mark = names.mark_of(name) or _mark_of_parts(name, names.mark_of)
    if value and mark is not None and not _IS_MARK.fullmatch(value):
        return f"{name}={mark}"
    if "%" not in value or forms >= _FORMS_MAX:
        return None
    inside = unquote_plus(value)
    shown = without_fields(inside, names, forms + 1)
    return None if shown == inside else f"{name}={quote_plus(shown)}"


def _values(
    text: str, mark_of: MarkOf, signs: list[re.Match[str]], *, form: bool
) -> Iterator[tuple[int, int, str]]:
    """Where values of fields stand, one behind the other, and what takes their places."""
    named = list(_named(text, mark_of, signs, form=form))
    begins = [name.begin for sign, name in named if not _is_encoded(sign)]

    def stop(at: int) -> int:
        index = bisect_left(begins, at)
        return begins[index] if index < len(begins) else len(text)

    last: tuple[int, int, str] | None = None
    for sign, held in named:
        name: _Name | None = held
        done = 0 if last is None else last[1]
        within = sign.start() < done
        if within and (_is_encoded(sign) or behind(_SPACE, text, sign.end()) < done):
            continue
        if held.begin < done and not within:
            name = _name_before(text, sign, done, mark_of, form=form)
        value = None if name is None else _assigned(text, sign, name, stop, form=form)
        if value is None:
            continue
        if last is not None and within:  # its name is part of a value, what follows it is not
            last = (last[0], max(done, value[1]), last[2])
            continue
        if last is not None:
            yield last
        last = value
    if last is not None:
        yield last


def _named(
    text: str, mark_of: MarkOf, signs: list[re.Match[str]], *, form: bool
) -> Iterator[tuple[re.Match[str], _Name]]:
    """The signs behind names of fields. In forms what is encoded was looked at before."""
    for sign in signs:
        if not (form and _is_encoded(sign)):
            name = _name_before(text, sign, 0, mark_of, form=form)
            if name is not None:
                yield sign, name


def _is_encoded(sign: re.Match[str]) -> bool:
    return sign.group()[0] == "%"


def _assigned(
    text: str, sign: re.Match[str], name: _Name, stop: Stop, *, form: bool
) -> tuple[int, int, str] | None:
    """The value behind a sign, and its mark; None where nothing is to be replaced."""
    if _is_encoded(sign):
        return _encoded(text, sign, name, stop)
    start = behind(_SPACE if name.quote else _BLANKS, text, sign.end())
    query = name.query or (form and name.start == 0)
    end, quote = end_of_value(text, start, (name.start, name.quote), stop, query=query)
    if not quote and name.first:
        end = end_of_line(text, end)
    value = text[start:end]
    if not value or value.rstrip("}])") in _NOTHING or _IS_MARK.fullmatch(value):
        return None
    quote = quote or name.quote
    return start, end, f"{quote}{name.mark}{quote}"


def _encoded(
    text: str, sign: re.Match[str], name: _Name, stop: Stop
) -> tuple[int, int, str] | None:
    """The same behind a sign in an encoded query or JSON text."""
    at = behind(_IS_MARK, text, sign.end())
    depth, pair = sign.group().count("25"), sign.group()[-1] in "dD"
    end = end_of_encoded(text, at, depth, stop, pair=pair)
    value = text[sign.end() : end]
    return None if not value or _IS_MARK.fullmatch(value) else (sign.end(), end, name.mark)


# --- names ------------------------------------------------------------------------------------


def _name_before(
    text: str, sign: re.Match[str], done: int, mark_of: MarkOf, *, form: bool
) -> _Name | None:
    """The field's name before a sign; nothing of it stands before `done`."""
    if _is_encoded(sign):
        return _encoded_name(text, sign, done, mark_of)
    end = _end_of_name(text, sign.start(), done)
    before = text[max(done, end - NAME_CHARS) : end]
    if not before.rstrip("])").endswith(_QUOTES):
        whole = not form and end <= NAME_CHARS and done == 0
        return _bare_name(before, end, mark_of, whole=whole)
    if "\\" in before:
        before = text[max(done, end - ESCAPED_NAME_CHARS) : end]
    return _quoted_name(before, end, mark_of)


def _encoded_name(text: str, sign: re.Match[str], done: int, mark_of: MarkOf) -> _Name | None:
    before = text[max(done, sign.start() - NAME_CHARS) : sign.start()]
    for _ in range(sign.group().count("25") + 1):
        before = unquote_plus(before)
    return _bare_name(before.rstrip("\"'\\ "), sign.start(), mark_of, whole=False)


def _end_of_name(text: str, at: int, done: int) -> int:
    """Before the blanks that stand before a sign."""
    while at > done and text[at - 1].isspace():
        piece = text[max(done, at - NAME_CHARS) : at]
        at -= len(piece) - len(piece.rstrip())
    return at


def _quoted_name(before: str, end: int, mark_of: MarkOf) -> _Name | None:
    """The field's name in quotes at the end of a text, which ends there in the whole text; an index in
    brackets too. None where it is none."""
    inner = before.rstrip("])")
    inside = inner[:-1].rstrip("\\")
    name = inside[inside.rfind(inner[-1]) + 1 :]
    start = end - len(before) + len(inside) - len(name)
    if "\\" in name:
        with contextlib.suppress(ValueError):
            name = str(json.loads('"' + _BACKSLASHES.sub(r"\\", name) + '"'))
    mark = mark_of(name[-NAME_CHARS:])
    quote = inner[len(inside) :] if inner == before else ""
    return None if mark is None else _Name(mark, quote, start)


def _bare_name(before: str, end: int, mark_of: MarkOf, *, whole: bool) -> _Name | None:
    """The same of one in no quotes. `whole`: nothing stands before that text."""
    offset = end - len(before)
    before = before.rstrip(")")
    name, start, mark = "", len(before), None
    for _ in range(_WORDS_MAX):
        word = _word_at_end(before[:start])
        if not word:
            return None
        name = f"{word} {name}".rstrip()
        start -= len(word)
        mark = mark_of(name.strip(_AROUND_WORDS)) or (
            _mark_of_parts(word, mark_of) if name == word else None
        )
        if mark is not None or not before[:start].endswith(" "):
            break
        start -= 1
    if mark is None:
        return None
    line = before.rfind("\n", 0, start)
    first = (line >= 0 or whole) and not before[line + 1 : start].strip(_BEFORE_LINES)
    return _Name(mark, "", offset + start, first, before[:start].endswith(("?", "&")))


def _word_at_end(before: str) -> str:
    found = _WORD_BACKWARDS.match(before[::-1])
    return "" if found is None else found.group()[::-1]


def _mark_of_parts(word: str, mark_of: MarkOf) -> str | None:
    """With what forms write for letters, and of its last part: `user[ssn]`, `user.ssn`."""
    mark = None
    if "%" in word or "+" in word:
        word = unquote_plus(word)
        mark = mark_of(word)
    if mark is None and ("." in word or "[" in word):
        parts = [part for part in _PARTS.split(word) if part]
        mark = mark_of(parts[-1]) if parts else None
    return mark
