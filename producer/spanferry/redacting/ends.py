"""Where the value ends that follows a field's name in a text that cannot be parsed.

Where that cannot be told it ends later rather than earlier. No value is looked at twice, so that all
of a text takes linear time.
"""

import re
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["Stop", "behind", "end_of_encoded", "end_of_line", "end_of_value"]

Stop: TypeAlias = Callable[[int], int]
"""Where the next name of a field begins, from that place on; the text's end where none does."""

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

_WORD: Final = {
    (quote, query): re.compile(rf"[^\s{quote}{query}]*+")
    for quote in ("", '"', "'")
    for query in ("", "&")
}
"""To the next blank, or what may end it earlier."""
_CLOSERS: Final = re.compile(r"[,;)}\]>\"'\\]*+(?!\S)")
_BEHIND_CLOSED: Final = re.compile(r"[\s,;:)}\]>\\]|\Z")
_OPENING: Final = re.compile(r"(?:\A|[{\[(,:=]\s{0,20})[bBrRuUfF]{0,2}(\\*+)\Z")
_OPENING_CHARS: Final = 40
"""So many before a quote tell whether it opens a string."""
_SCALAR: Final = re.compile(
    r"(?:-?\d[\d.eE+-]*+|true|false|null|True|False|None|NaN)"
    r"(?=[\s)}\]]{0,20}(?:\Z|[,;]|\\*+[\"'])|[)}\]]{0,20}\s)"
)
"""Of JSON and Python, with what stands behind it there."""
_ASSIGNED: Final = re.compile(
    r"(?:[ \t]*+\|[ \t]*+[\w.]++(?:\[[^\]\n]{0,100}\])?){0,5}\s*+(?<!=)=(?!=)\s*+"
)
"""`password: str = ...`: what stood before it was no value, or not all of it."""
_ASSIGNED_TIGHT: Final = re.compile(r"(?<==)(?=[\"'(\[{])")

_MORE_DIGITS: Final = re.compile(r"(?: [0-9-]++(?![^\s,;.]))*+")
"""`123 45 6789` is one value."""
_SCHEMES: Final = frozenset({"bearer", "basic", "digest", "token", "negotiate", "apikey"})
"""`Authorization: Basic ...`: the value comes after these."""

_AROUND_CHARS: Final = 1_000
"""How far before a name the string may begin in which it stands."""


def end_of_value(
    text: str, start: int, name: tuple[int, str], stop: Stop, *, query: bool
) -> tuple[int, str]:
    """Where the value ends that starts there, and its quotes, where it is a string.

    `name`: where its name stands, and in which quotes. `query`: an ampersand ends it.
    """
    around = ("", 0) if name[1] else _string_around(text, name[0])
    end, quote = _end_of_one(text, start, around, stop, quoted=bool(name[1]), query=query)
    if quote:
        return end, quote
    assigned = None if query else _assigned(text, end, around)
    if assigned is not None or text[start:end].lower() in _SCHEMES:
        at = behind(_BLANKS, text, end) if assigned is None else assigned.end()
        end, _ = _end_of_one(text, at, around, stop, quoted=bool(name[1]), query=query)
    if text[end - 1 : end].isdigit():
        end = behind(_MORE_DIGITS, text, end)
    return end, ""


def end_of_line(text: str, end: int) -> int:
    """Where the line ends in which that place is."""
    line = text.find("\n", end)
    return len(text) if line < 0 else line


def end_of_encoded(text: str, start: int, depth: int, stop: Stop, *, pair: bool) -> int:
    """The same of a value in an encoded query, as in `next=%2Fa%3Fpassword%3DS`, which is so many times
    encoded. `pair`: an encoded ampersand ends it too."""
    pattern = rf"(?:(?!%(?:25){{0,{depth}}}26)[^\s&\"<>])*+" if pair else r"[^\s&\"<>]*+"
    found = re.compile(pattern).match(text, start, stop(start))
    return start if found is None else found.end()


def behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Behind what matches there; the place itself where nothing does."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _end_of_one(
    text: str, start: int, around: tuple[str, int], stop: Stop, *, quoted: bool, query: bool
) -> tuple[int, str]:
    """Where one value ends: a string, a list or a call where those end, a word at the next blank."""
    if quoted:
        scalar = _SCALAR.match(text, start)
        if scalar is not None:
            return scalar.end(), ""
    end, quote, group = _end_of_parts(text, start)
    if quote or (group and (quoted or _CLOSERS.match(text, end) is not None)):
        return end, quote
    if end > start and _assigned(text, end, around) is not None:
        return end, ""
    closed = _end_of_word(text, end, around, stop(end), query=query)
    kept = ",;)}]" if quoted else ",;"
    last = closed
    while last > end and text[last - 1] in kept:
        last -= 1
    return (last if last > start else closed), ""


def _assigned(text: str, end: int, around: tuple[str, int]) -> re.Match[str] | None:
    found = _ASSIGNED.match(text, end)
    return _ASSIGNED_TIGHT.match(text, end) if found is None and not around[0] else found


def _end_of_parts(text: str, at: int) -> tuple[int, str, bool]:
    """Behind texts, brackets and strings with nothing in between; with the quotes of the first, where it
    is a string, and whether the last was in brackets."""
    start, quote, first_quote, group = at, None, "", False
    while at < len(text):
        bare = _BARE.match(text, at)
        if bare is not None:
            if at == start and not _PREFIXES.fullmatch(bare.group()):
                quote = ""  # what comes may be the end of a string around all of it
            at, group = bare.end(), False
            continue
        found = _QUOTE.match(text, at)
        if found is not None:
            if quote is not None and found.group() != quote:
                break
            if quote is None and at == start:
                first_quote = found.group()
            quote = found.group()
            at, group = _end_of_string(text, found), quote != first_quote
        elif text[at] in "([{":
            at, group = _end_of_group(text, at), True
            quote = quote or ""
        elif text[at] == "<" and at == start:
            end = text.find(">", at)
            at, group = (len(text) if end < 0 else end + 1), True
        else:
            break
    return at, first_quote, group


def _end_of_word(text: str, at: int, around: tuple[str, int], limit: int, *, query: bool) -> int:
    """The next blank, or the end of the string around it; no further than a place."""
    first, (quote, slashes) = at, around
    pattern = _WORD[quote, "&" if query else ""]
    while True:
        found = pattern.match(text, at, limit)
        at = at if found is None else found.end()
        if not quote or at >= limit or text[at] != quote:
            return at
        run = at
        while run > first and text[run - 1] == "\\":
            run -= 1
        if (at - run) % (2 * slashes + 2) == slashes and _BEHIND_CLOSED.match(text, at + 1):
            return at - slashes
        at += 1


def _string_around(text: str, at: int) -> tuple[str, int]:
    """The quote of the string that has begun before that place, where that is certain, and the
    backslashes before it."""
    first = max(0, at - _AROUND_CHARS)
    for quote in ('"', "'"):
        opened = text.rfind(quote, first, at)
        if opened >= 0:
            found = _OPENING.search(text[max(0, opened - _OPENING_CHARS) : opened])
            if found is not None:
                return quote, len(found.group(1))
    return "", 0


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
