"""The signs of a text that may stand behind the name of a field, found in a few passes in C."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

__all__ = ["ESCAPED_NAME_CHARS", "NAME_CHARS", "Places"]

NAME_CHARS: Final = 200
ESCAPED_NAME_CHARS: Final = 1_000
"""A name in quotes may be nothing but escapes."""

_SIGN: Final = re.compile(r"[:=][:=>]{0,3}|%(?:25){0,4}3[aAdD]")
"""Encoded ones too, as in `next=%2Fa%3Fb%3Dc`."""
_SIGN_CHARS: Final = 13

_LOWER: Final = bytes(range(256)).lower()
_NOT_COUNTED: Final = b"_- +\\"
"""What may stand between two letters of a name; a plus is a form's blank."""
_BETWEEN: Final = r"[_ +\\-]*+"
_ENCODED_BETWEEN: Final = r"(?:[_ +\\-]|%(?:25){0,4}(?:20|2b|2d|5c|5f)|u00(?:20|2d|5f))*+"
_ENCODED: Final = re.compile(rb"%(?:25){0,4}(?:20|2b|2d|5c|5f)")
_ESCAPED_BETWEEN: Final = (b"u0020", b"u002d", b"u005f")
_NOT_SEARCHED: Final = dict.fromkeys(map(ord, "_- +\\%\ufffd"))

_SPACE: Final = re.compile(r"\s*+")

_Search: TypeAlias = Callable[[str], Iterable[re.Match[str]]]


class Places:
    """Of some names' parts: where a text may hold a name."""

    def __init__(self, parts: Iterable[str]) -> None:
        """`parts`: in lower case; of every name of a field one of them is a part."""
        given = set(parts)
        self._hidden = _hidden({letter for part in given for letter in part}) if given else None
        found = {part.translate(_NOT_SEARCHED) for part in given}
        self._anywhere = "" in found
        """Of a name so little is known that it may be anywhere."""
        self._parts = [
            (
                part.encode("utf-8", "replace"),
                _search(part, _BETWEEN),
                _search(part, _ENCODED_BETWEEN),
            )
            for part in sorted(found)
            if part
        ]

    def signs(self, text: str) -> list[re.Match[str]]:
        """The colons and equals signs that may stand behind a name, in order."""
        if self._anywhere:
            return list(_SIGN.finditer(text))
        data = text.encode("utf-8", "replace")
        lower = data.lower()
        starts = sorted(
            {one.span() for search in self._searches(lower) for one in search(lower.decode())}
        )
        return list(_signs(text, starts)) if starts else []

    def _searches(self, data: bytes) -> list[_Search]:
        """What is to be searched for in the text, which is in lower case."""
        folded = data.translate(_LOWER, _NOT_COUNTED)
        if b"%" not in data and b"\\u" not in data:
            return [plain for part, plain, _ in self._parts if part in folded]
        plainer = _ENCODED.sub(b"", folded) if b"%" in data else folded
        for blank in _ESCAPED_BETWEEN:
            plainer = plainer.replace(blank, b"")
        searches = [
            encoded for part, _, encoded in self._parts if part in folded or part in plainer
        ]
        return searches if self._hidden is None else [*searches, self._hidden]


def _search(part: str, between: str) -> _Search:
    return re.compile(between.join(map(re.escape, part))).finditer


def _hidden(letters: set[str]) -> _Search:
    """Letters of names that are written otherwise, as \\u0073 or %73, in forms within forms as %2573."""
    cases = letters | {letter.upper() for letter in letters if letter.isascii()}
    units: dict[str, set[str]] = {}
    octets: set[str] = set()
    for letter in cases:
        for unit in re.findall("....", letter.encode("utf-16-be", "replace").hex()):
            units.setdefault(unit[:2], set()).add(unit[2:])
        octets.update(re.findall("..", letter.encode("utf-8", "replace").hex()))
    percent = "%(?:25){0,4}"
    escapes = "|".join(f"{high}{_one_of(low)}" for high, low in sorted(units.items()))
    return re.compile(rf"(?:\\|{percent}5c)u(?:{escapes})|{percent}{_one_of(octets)}").finditer


def _one_of(octets: set[str]) -> str:
    by_first: dict[str, str] = {}
    for octet in sorted(octets):
        by_first[octet[0]] = by_first.get(octet[0], "") + octet[1]
    return "(?:" + "|".join(f"{first}[{second}]" for first, second in by_first.items()) + ")"


def _signs(text: str, found: list[tuple[int, int]]) -> Iterator[re.Match[str]]:
    """Those in whose names one of the places is that were found."""
    last, behind_last = 0, 0
    for first, limit in _windows(text, found):
        for sign in _SIGN.finditer(text, max(first, behind_last), limit + _SIGN_CHARS):
            while last + 1 < len(found) and found[last + 1][0] < sign.start():
                last += 1
            start = found[last][0]
            if start >= behind_last or _in_quotes(text[start : sign.start()]):
                yield sign
            behind_last = sign.end()


def _in_quotes(text: str) -> bool:
    """Whether it may be the end of a name in quotes; of others no sign is a part."""
    closed = text.rstrip().rstrip("])")
    return closed[-1:] in ("'", '"') and closed[-1] not in closed[:-1]


def _windows(text: str, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """From each place as far as its name may reach, with the blanks behind the name."""
    windows: list[tuple[int, int]] = []
    first, limit = found[0][0], 0
    for start, end in found:
        if limit and start > limit:
            windows.append((first, limit))
            first = start
        reach = end + NAME_CHARS
        name = text[start:reach]
        if "\\" in name or "%" in name:
            reach = end + ESCAPED_NAME_CHARS
        if reach > limit:
            blanks = _SPACE.match(text, min(reach, len(text)))
            limit = reach if blanks is None else blanks.end() + 1
    windows.append((first, limit))
    return windows
