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
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote_plus, unquote_plus

__all__ = ["begins_as_form", "without_fields"]

MarkOf: TypeAlias = Callable[[str], str | None]

_SIGN: Final = re.compile(r"[:=][:=>]{0,3}")
_QUOTES: Final = ("'", '"')
_NAME_CHARS: Final = 200
_ESCAPED_NAME_CHARS: Final = 1_000
"""A name in quotes may be nothing but escapes."""

_WORD_BACKWARDS: Final = re.compile(r"[^\s:=,;&?{}()<>\"'\\|/#]*+")
_WORDS_MAX: Final = 3
"""`credit card number: 4111`: so many words may be a name that is in no quotes."""
_AROUND_WORDS: Final = "$@*`~!^-"
_BEFORE_LINES: Final = " \t>*-#"
_BACKSLASHES: Final = re.compile(r"\\+")
_PARTS: Final = re.compile(r"[.\[\]]+")

_SPACE: Final = re.compile(r"\s*+")
_BLANKS: Final = re.compile(r"[ \t]*+")
_BARE: Final = re.compile(r"(?:[^\s,;&\"'<>(){}\[\]\\]|\\++(?![\"']))++")
_QUOTE: Final = re.compile(r"(\\*+)([\"'])")
_PREFIXES: Final = re.compile(r"[bBrRuUfF]{1,2}")
"""Before Python's strings."""
_REST_OF_STRING: Final = {
    '"': re.compile(r'(?:[^"\\]|\\.)*+["\\]?', re.DOTALL),
    "'": re.compile(r"(?:[^'\\]|\\.)*+['\\]?", re.DOTALL),
}
"""From behind its opening quote; all there is where it is not closed."""
_IN_GROUP: Final = re.compile(r"[^\"'(){}\[\]\\]++|\\++")

_MORE_DIGITS: Final = re.compile(r"(?: [0-9-]++(?![^\s,;.]))*+")
"""`123 45 6789` is one value."""

_SCHEMES: Final = frozenset({"bearer", "basic", "digest", "token", "negotiate", "apikey"})
"""`Authorization: Basic ...`: the value comes after these."""

_NOTHING: Final = frozenset({"null", "None"})
_IS_MARK: Final = re.compile(r"[\\\"']*\[REDACTED:[\w .-]{1,200}\][\\\"']*")
_UNREADABLE: Final = "[REDACTED:withheld]"

_FORM: Final = re.compile(r"[^\s=&:?{}()<>\"'\\/]{1,200}=")
_FORMS_MAX: Final = 3
"""Forms in values of forms."""


class _Name(NamedTuple):
    mark: str
    quote: str
    """What its quotes are, with the backslashes before them; empty where it has none."""
    first: bool
    """It is the first of its line, and in no quotes."""


def begins_as_form(text: str) -> bool:
    """Whether it may be a form's body, in whose names a letter may be written as %41."""
    return _FORM.match(text) is not None


def without_fields(text: str, mark_of: MarkOf, forms: int = 0) -> str:
    """The text with marks for the values of fields; the very same where there are none.

    `mark_of` answers what takes the place of a name's value, None where that may stay.
    """
    if "\0" in text:  # of another encoding, with a zero between two letters
        legible = text.replace("\0", "")
        return text if without_fields(legible, mark_of) == legible else _UNREADABLE
    form = begins_as_form(text) and ("&" in text or "\n" not in text.rstrip())
    if form:
        text = _without_form_fields(text, mark_of, forms)
    kept: list[str] = []
    done = 0
    for start, end, mark in _values(text, mark_of, form=form):
        kept += text[done:start], mark
        done = end
    return "".join((*kept, text[done:])) if kept else text


def _without_form_fields(text: str, mark_of: MarkOf, forms: int) -> str:
    pairs = text.split("&")
    changed = False
    for index, pair in enumerate(pairs):
        name, _, value = pair.partition("=")
        mark = mark_of(name) or _mark_of_parts(name, mark_of)
        if value and mark is not None and not _IS_MARK.fullmatch(value):
            pairs[index], changed = f"{name}={mark}", True
        elif "%" in value and forms < _FORMS_MAX:
            inside = unquote_plus(value)
            shown = without_fields(inside, mark_of, forms + 1)
            if shown != inside:
                pairs[index], changed = f"{name}={quote_plus(shown)}", True
    return "&".join(pairs) if changed else text


def _values(text: str, mark_of: MarkOf, *, form: bool) -> Iterator[tuple[int, int, str]]:
    """Where values of fields stand, one behind the other, and what takes their places."""
    done = 0
    for sign in _SIGN.finditer(text):
        if sign.start() < done:
            continue
        before = text[max(done, sign.start() - _NAME_CHARS) : sign.start()].rstrip()
        if not before.rstrip("])").endswith(_QUOTES):
            whole = not form and sign.start() <= _NAME_CHARS and done == 0
            name = _bare_name(before, mark_of, whole=whole)
        else:
            if "\\" in before:
                before = text[max(done, sign.start() - _ESCAPED_NAME_CHARS) : sign.start()].rstrip()
            name = _quoted_name(before, mark_of)
        if name is None:
            continue
        start = _behind(_SPACE if name.quote else _BLANKS, text, sign.end())
        end, quote = _end_of_value(text, start)
        if not quote:
            end = _end_of_words(text, start, end, whole_line=name.first)
        value = text[start:end]
        if not value or value in _NOTHING or _IS_MARK.fullmatch(value):
            continue
        quote = quote or name.quote
        yield start, end, f"{quote}{name.mark}{quote}"
        done = end


# --- names ------------------------------------------------------------------------------------


def _quoted_name(before: str, mark_of: MarkOf) -> _Name | None:
    """The field's name in quotes at the end of a text, an index in brackets too; None where it is none."""
    inner = before.rstrip("])")
    inside = inner[:-1].rstrip("\\")
    name = inside[inside.rfind(inner[-1]) + 1 :]
    if "\\" in name:
        with contextlib.suppress(ValueError):
            name = str(json.loads('"' + _BACKSLASHES.sub(r"\\", name) + '"'))
    mark = mark_of(name[-_NAME_CHARS:])
    quote = inner[len(inside) :] if inner == before else ""
    return None if mark is None else _Name(mark, quote, False)


def _bare_name(before: str, mark_of: MarkOf, *, whole: bool) -> _Name | None:
    """The same of one in no quotes. `whole`: nothing stands before that text."""
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
    return _Name(mark, "", first)


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


# --- values -----------------------------------------------------------------------------------


def _end_of_value(text: str, at: int) -> tuple[int, str]:
    """Where the value ends that starts there: texts, brackets and strings with nothing in between; and
    its quotes, where it is a string."""
    start, quote, first_quote = at, None, ""
    while at < len(text):
        bare = _BARE.match(text, at)
        if bare is not None:
            if at == start and not _PREFIXES.fullmatch(bare.group()):
                quote = ""  # what comes may be the end of a string around all of it
            at = bare.end()
            continue
        found = _QUOTE.match(text, at)
        if found is not None:
            if quote is not None and found.group() != quote:
                break
            if quote is None and at == start:
                first_quote = found.group()
            quote = found.group()
            at = _end_of_string(text, found)
        elif text[at] in "([{":
            at = _end_of_group(text, at)
            quote = quote or ""
        elif text[at] == "<" and at == start:
            end = text.find(">", at)
            at = len(text) if end < 0 else end + 1
        else:
            break
    return at, first_quote


def _end_of_words(text: str, start: int, end: int, *, whole_line: bool) -> int:
    """Where a value really ends that is in no quotes: it may be several words."""
    if whole_line:
        line = text.find("\n", end)
        return len(text) if line < 0 else line
    if text[start:end].lower() in _SCHEMES:
        end, _ = _end_of_value(text, _behind(_BLANKS, text, end))
    return _behind(_MORE_DIGITS, text, end) if text[end - 1 : end].isdigit() else end


def _behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _end_of_string(text: str, opening: re.Match[str]) -> int:
    """Behind the closing quote: the next one with as many backslashes as the opening one has, where each
    backslash of the string itself has doubled them."""
    slashes, quote = len(opening.group(1)), opening.group(2)
    if not slashes:
        rest = _REST_OF_STRING[quote].match(text, opening.end())
        return len(text) if rest is None else rest.end()
    at = first = opening.end()
    while (at := text.find(quote, at)) >= 0:
        run = at
        while run > first and text[run - 1] == "\\":
            run -= 1
        at += 1
        if (at - 1 - run) % (2 * slashes + 2) == slashes:
            return at
    return len(text)


def _end_of_group(text: str, at: int) -> int:
    """Behind the bracket that closes the one there; the text's end where none does."""
    depth = 0
    while at < len(text):
        other = _IN_GROUP.match(text, at)
        quote = _QUOTE.match(text, at)
        if quote is not None:
            at = _end_of_string(text, quote)
        elif other is not None:
            at = other.end()
        else:
            depth += 1 if text[at] in "([{" else -1
            at += 1
            if depth == 0:
                break
    return at
